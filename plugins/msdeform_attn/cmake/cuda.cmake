# CUDA's compiler, headers and runtime. find_package(CUDAToolkit) is not used: it does not know the layout of the pip
# packages, which hold no unversioned libcudart.so.
# Sets OVAVSS_CUDA_WHY_NOT, OVAVSS_CUDA_INCLUDE and the target ovavss_cudart; enables the language.
option(OVAVSS_CUDA "Build the CUDA kernels where nvcc is found" ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # ovavss_cudart instead
set(OVAVSS_CUDA_WHY_NOT "")

function(find_nvcc)
  if(DEFINED ENV{CUDACXX})
    set(OVAVSS_NVCC "$ENV{CUDACXX}" CACHE FILEPATH "CUDA's compiler")
  endif()
  find_program(OVAVSS_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda
               PATH_SUFFIXES bin)
  if(NOT OVAVSS_NVCC)
    find_program(OVAVSS_NVCC nvcc PATHS ${OVAVSS_NVIDIA_PACKAGES} PATH_SUFFIXES bin NO_DEFAULT_PATH)
  endif()
  mark_as_advanced(OVAVSS_NVCC)
endfunction()

# What nvcc can compile of the wanted architectures, 7.5 to 12.0; PTX of the last one serves all that come later.
function(choose_architectures nvcc)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
  set(chosen "")
  foreach(architecture IN ITEMS 75 80 86 89 90 100 120)
    if(known MATCHES "compute_${architecture}([^0-9]|$)")
      list(APPEND chosen ${architecture}-real)
    endif()
  endforeach()
  list(POP_BACK chosen last)
  string(REPLACE "-real" "" last "${last}")
  set(CMAKE_CUDA_ARCHITECTURES "${chosen};${last}" CACHE STRING "GPU architectures to compile for")
endfunction()

if(CMAKE_CUDA_COMPILER AND NOT EXISTS "${CMAKE_CUDA_COMPILER}")
  message(STATUS "${CMAKE_CUDA_COMPILER} is gone: looking for another nvcc")
  unset(CMAKE_CUDA_COMPILER CACHE)
  file(GLOB stale "${CMAKE_BINARY_DIR}/CMakeFiles/*/CMakeCUDACompiler.cmake")
  file(REMOVE ${stale})
endif()
if(NOT OVAVSS_CUDA)
  set(OVAVSS_CUDA_WHY_NOT "OVAVSS_CUDA is off")
elseif(NOT CMAKE_CUDA_COMPILER)
  find_nvcc()
  if(OVAVSS_NVCC)
    set(ENV{CUDACXX} "${OVAVSS_NVCC}")
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(OVAVSS_CUDA_WHY_NOT "${OVAVSS_NVCC} compiles nothing: CMakeFiles/CMakeError.log says why")
    endif()
  else()
    set(OVAVSS_CUDA_WHY_NOT "no nvcc; install CUDA 12.8 or newer, or the pip packages of the dependency group 'cuda'")
  endif()
endif()

if(OVAVSS_CUDA AND CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    choose_architectures("${CMAKE_CUDA_COMPILER}")
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  get_filename_component(root "${CMAKE_CUDA_COMPILER}" REALPATH)
  get_filename_component(root "${root}/../.." ABSOLUTE)
  find_library(OVAVSS_CUDART NAMES libcudart_static.a cudart_static libcudart.so.13 libcudart.so.12 cudart
               HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} ${root}/lib ${root}/lib64 ${root}/targets/x86_64-linux/lib
               PATHS ${OVAVSS_NVIDIA_PACKAGES} PATH_SUFFIXES lib DOC "CUDA's runtime library")
  if(OVAVSS_CUDART)
    add_library(ovavss_cudart INTERFACE)
    target_link_libraries(ovavss_cudart INTERFACE "${OVAVSS_CUDART}" Threads::Threads ${CMAKE_DL_LIBS} rt)
  else()
    set(OVAVSS_CUDA_WHY_NOT "no libcudart beside ${CMAKE_CUDA_COMPILER}; name it with -DOVAVSS_CUDART=FILE")
  endif()
endif()

find_path(OVAVSS_CUDA_INCLUDE NAMES crt/host_defines.h DOC "Folder of cuda_runtime_api.h"
          HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ENV CUDA_HOME ENV CUDA_PATH
          PATHS /usr/local/cuda ${OVAVSS_NVIDIA_PACKAGES} PATH_SUFFIXES include)
