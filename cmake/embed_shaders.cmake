# Embeds the text of shaders/ verbatim, so that a driver's message names the line one sees in the file.
#
#   convrt_embed_shaders(target)       adds the generated source to target
#   cmake -DOUT=x.cpp -DDIR=shaders -P embed_shaders.cmake     writes it (at build time)
if(CMAKE_SCRIPT_MODE_FILE)
  file(GLOB files RELATIVE ${DIR} ${DIR}/*.comp ${DIR}/*.glsl ${DIR}/tuned/*.txt)
  list(SORT files)
  set(rows "")
  foreach(name IN LISTS files)
    file(READ ${DIR}/${name} text)
    string(APPEND rows "    {\"${name}\", R\"convrt(${text})convrt\"},\n")
  endforeach()
  file(WRITE ${OUT} "// Generated from shaders/ by cmake/embed_shaders.cmake.
#include \"gl/shader_text.hpp\"

namespace convrt::gl {

std::span<const ShaderFile> embedded_shaders() {
  static constexpr ShaderFile files[] = {
${rows}  };
  return files;
}

}  // namespace convrt::gl
")
  return()
endif()

function(convrt_embed_shaders target)
  set(dir ${PROJECT_SOURCE_DIR}/shaders)
  set(out ${PROJECT_BINARY_DIR}/embedded_shaders.cpp)
  file(GLOB files CONFIGURE_DEPENDS ${dir}/*.comp ${dir}/*.glsl ${dir}/tuned/*.txt)
  set(script ${PROJECT_SOURCE_DIR}/cmake/embed_shaders.cmake)
  add_custom_command(OUTPUT ${out} COMMAND ${CMAKE_COMMAND} -DOUT=${out} -DDIR=${dir} -P ${script}
    DEPENDS ${files} ${script} COMMENT "Embedding shaders" VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()
