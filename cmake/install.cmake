# Install and export rules: find_package(convrt), pkg-config, and the build tree itself.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(convrt_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/convrt)

install(TARGETS convrt EXPORT convrt-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/convrt DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} PATTERN mpi.hpp EXCLUDE)
set(convrt_has_mpi OFF)
if(TARGET convrt_mpi)
  set(convrt_has_mpi ON)
  # Targets of their own: who does not ask for the component needs no MPI.
  install(TARGETS convrt_mpi EXPORT convrt-mpi-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(FILES include/convrt/mpi.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/convrt)
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET convrt_info)
  install(TARGETS convrt_info RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# The same two files serve the install tree and the build tree.
configure_package_config_file(cmake/convrt-config.cmake.in ${PROJECT_BINARY_DIR}/convrt-config.cmake
  INSTALL_DESTINATION ${convrt_cmake_dir} NO_SET_AND_CHECK_MACRO)
# 0.x may change its API with every minor version.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/convrt-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/convrt-config.cmake ${PROJECT_BINARY_DIR}/convrt-config-version.cmake
  DESTINATION ${convrt_cmake_dir})
install(EXPORT convrt-targets NAMESPACE convrt:: DESTINATION ${convrt_cmake_dir})
export(EXPORT convrt-targets NAMESPACE convrt:: FILE ${PROJECT_BINARY_DIR}/convrt-targets.cmake)
if(TARGET convrt_mpi)
  install(EXPORT convrt-mpi-targets NAMESPACE convrt:: DESTINATION ${convrt_cmake_dir})
  export(EXPORT convrt-mpi-targets NAMESPACE convrt:: FILE ${PROJECT_BINARY_DIR}/convrt-mpi-targets.cmake)
endif()

# pkg-config: paths relative to the .pc file, so that the installed tree may move.
set(convrt_pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX}/${convrt_pc_dir}
  OUTPUT_VARIABLE convrt_pc_prefix)
set(convrt_pc_private)
foreach(name IN LISTS OpenMP_CXX_LIB_NAMES)
  if(name STREQUAL "omp")  # clang keeps it outside of the linker's usual folders
    cmake_path(GET OpenMP_omp_LIBRARY PARENT_PATH dir)
    list(APPEND convrt_pc_private -L${dir})
  endif()
  list(APPEND convrt_pc_private -l${name})
endforeach()
list(APPEND convrt_pc_private ${CMAKE_THREAD_LIBS_INIT} -l${CMAKE_DL_LIBS} -lstdc++ -lm)
list(REMOVE_ITEM convrt_pc_private -l)
list(REMOVE_DUPLICATES convrt_pc_private)
list(JOIN convrt_pc_private " " convrt_pc_private)
configure_file(cmake/convrt.pc.in ${PROJECT_BINARY_DIR}/convrt.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/convrt.pc DESTINATION ${convrt_pc_dir})
