# Builds and runs the foreign project one way. Run by ctest:
#   cmake -D MODE=... -D SOURCE=<convrt> -D BUILD=<convrt's build> -D WORK=<scratch> [-D LAUNCHER=ccache]
#         [-D MPI=ON] -P consume.cmake
# MODE: find_package and pkg_config (of an installation, moved after installing), build_tree, add_subdirectory,
# fetch_content.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK})
set(options -D CMAKE_BUILD_TYPE=Release -D CONVRT_SOURCE_DIR=${SOURCE} -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
  -D CMAKE_C_COMPILER=${C_COMPILER} -D CMAKE_CXX_COMPILER=${CXX_COMPILER})
set(mode ${MODE})
if(MPI AND (MODE STREQUAL "build_tree" OR MODE STREQUAL "find_package"))
  list(APPEND options -D CONSUMER_MPI=ON)
endif()
if(MODE STREQUAL "build_tree")
  set(mode find_package)
  list(APPEND options -D convrt_DIR=${BUILD})
elseif(MODE STREQUAL "find_package" OR MODE STREQUAL "pkg_config")
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
  file(RENAME ${WORK}/first ${WORK}/moved)  # an installed tree may move
  list(APPEND options -D CMAKE_PREFIX_PATH=${WORK}/moved)
  file(GLOB pc_dir ${WORK}/moved/lib*/pkgconfig ${WORK}/moved/lib*/*/pkgconfig)
  set(ENV{PKG_CONFIG_PATH} ${pc_dir})
  cmake_path(GET pc_dir PARENT_PATH lib_dir)
  if(MODE STREQUAL "pkg_config")
    set(ENV{LD_LIBRARY_PATH} ${lib_dir})
  endif()
endif()

run(${CMAKE_COMMAND} -G Ninja -S ${SOURCE}/tests/consumer -B ${WORK}/build -D CONSUMER_MODE=${mode} ${options})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
run(${WORK}/build/consumer_c)
