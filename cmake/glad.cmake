# convrt_find_glad(RESULT): the OpenGL and EGL loader, generated at build time by glad 2 into this build tree; sets
# RESULT to its two C sources and RESULT_include to its headers, or RESULT to NOTFOUND where the generator is missing.
# Nothing of it is committed or installed.
#
# --mx: one function table per context (several devices, and tests replace single functions).
# --reproducible: takes the specification from glad's own package, so nothing is fetched.
function(convrt_find_glad result)
  find_program(CONVRT_GLAD glad DOC "glad 2, generator of OpenGL loaders (package python3-glad)")
  mark_as_advanced(CONVRT_GLAD)
  if(NOT CONVRT_GLAD)
    set(${result} NOTFOUND PARENT_SCOPE)
    return()
  endif()

  list(JOIN CONVRT_GLAD_EXTENSIONS "," extensions)
  set(dir ${CMAKE_CURRENT_BINARY_DIR}/glad)
  set(sources ${dir}/src/gl.c ${dir}/src/egl.c)
  add_custom_command(
    OUTPUT ${sources} ${dir}/include/glad/gl.h ${dir}/include/glad/egl.h
    COMMAND ${CONVRT_GLAD} --quiet --reproducible --api gl:core=4.5,egl=1.5 --out-path ${dir}
            --extensions ${extensions} c --loader --mx
    COMMENT "Generating the OpenGL loader"
    VERBATIM)
  # Generated C: our warnings are not for it.
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "-w")
  set(${result} ${sources} PARENT_SCOPE)
  set(${result}_include ${dir}/include PARENT_SCOPE)
endfunction()

set(CONVRT_GLAD_EXTENSIONS
  GL_KHR_robustness GL_KHR_debug GL_KHR_parallel_shader_compile GL_KHR_shader_subgroup
  GL_ARB_buffer_storage GL_ARB_get_program_binary GL_ARB_multi_bind GL_NVX_gpu_memory_info
  EGL_EXT_client_extensions EGL_EXT_platform_base EGL_EXT_platform_device EGL_EXT_device_base
  EGL_EXT_device_enumeration EGL_EXT_device_query EGL_EXT_device_drm EGL_EXT_device_drm_render_node
  EGL_EXT_device_persistent_id EGL_NV_device_cuda EGL_MESA_platform_surfaceless EGL_KHR_surfaceless_context
  EGL_KHR_create_context EGL_KHR_no_config_context EGL_EXT_create_context_robustness)
