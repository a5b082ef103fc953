# T2R_CUDA_INTERFACE: a digest of what program and CUDA module must agree on, the headers of Backend and of
# all that its calls take. A change of one configures anew; a module from before is then refused.
get_filename_component(T2R_TOP ${CMAKE_CURRENT_LIST_DIR}/../../.. ABSOLUTE)
file(GLOB T2R_CUDA_INTERFACE_HEADERS CONFIGURE_DEPENDS ${T2R_TOP}/engine/ops/*.h)
list(APPEND T2R_CUDA_INTERFACE_HEADERS
  ${T2R_TOP}/engine/ops/cuda/cuda_module.h
  ${T2R_TOP}/engine/sampling/params.h
  ${T2R_TOP}/engine/sampling/sample.h)
list(SORT T2R_CUDA_INTERFACE_HEADERS)
set(T2R_CUDA_INTERFACE "")
foreach(header ${T2R_CUDA_INTERFACE_HEADERS})
  file(SHA256 ${header} digest)
  string(APPEND T2R_CUDA_INTERFACE ${digest})
endforeach()
string(SHA256 T2R_CUDA_INTERFACE "${T2R_CUDA_INTERFACE}")
string(SUBSTRING ${T2R_CUDA_INTERFACE} 0 16 T2R_CUDA_INTERFACE)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${T2R_CUDA_INTERFACE_HEADERS})
