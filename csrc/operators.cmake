# The DALI plugin: operators/ and, where nvcc is found, the kernels of image/device.cu,
# the only file that nvcc sees (DALI's headers would take it half a minute per chip).
# A plugin is bound to the exact DALI version it was built against; dali_dr/_plugin.py checks that at import.
set(plugin_sources jpeg/export.cc operators/decode.cc operators/draw_arguments.cc
                   operators/encoded_image.cc operators/monitor.cc operators/read.cc operators/read_options.cc
                   operators/replay.cc operators/replay_cpu.cc published/export.cc record/export.cc
                   samples/export.cc shards/export.cc)
if(NOT DALI_DR_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${DALI_DR_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    # -fmad=false is the device's -ffp-contract=off.
    add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-fmad=false;-Xcompiler=-Wall>")
    list(APPEND plugin_sources image/device.cu)
    set(DALI_DR_CUDA_FOUND ON)
  elseif(DALI_DR_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DALI_DR_CUDA=ON but no CUDA compiler was found: put nvcc on the PATH or set CUDACXX.")
  endif()
endif()

# GCC 12 takes a placement of DALI's small vectors for a free of a non-heap object.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wno-free-nonheap-object>")
# Compiled once, linked in two ways: for this machine, and for wheels (portable/).
add_library(dr_plugin OBJECT ${plugin_sources})
set(plugin_libraries dr_samples dr_image dr_jpeg dr_published dr_record Threads::Threads dali dali_core dali_kernels)
target_link_libraries(dr_plugin PRIVATE dr_samples dr_image dr_jpeg dr_published dr_record)
target_include_directories(dr_plugin SYSTEM PRIVATE ${DALI_DR_DALI_INCLUDE})
if(DALI_DR_CUDA_FOUND)
  list(APPEND plugin_libraries CUDA::cudart_static)
  target_link_libraries(dr_plugin PRIVATE CUDA::cudart_static)
  target_compile_definitions(dr_plugin PRIVATE DALI_DR_CUDA=1)
  message(STATUS "dali_dr: GPU operators for ${CMAKE_CUDA_ARCHITECTURES} by ${CMAKE_CUDA_COMPILER}")
else()
  # DALI's headers include cuda_runtime.h even in a CPU-only plugin.
  find_path(CUDA_HEADERS cuda_runtime.h HINTS ${DALI_DR_CUDA_INCLUDE} /usr/local/cuda/include)
  if(NOT CUDA_HEADERS)
    message(FATAL_ERROR "DALI's headers need cuda_runtime.h: install a CUDA toolkit or "
                        "pip install nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12 nvidia-cuda-cccl-cu12")
  endif()
  target_include_directories(dr_plugin SYSTEM PRIVATE ${CUDA_HEADERS} ${DALI_DR_CUDA_INCLUDE})
  message(STATUS "dali_dr: CPU operators only (no CUDA compiler)")
endif()
add_library(dali_dr_ops SHARED $<TARGET_OBJECTS:dr_plugin>)
target_link_directories(dali_dr_ops PRIVATE ${DALI_DR_DALI_LIB})
target_link_libraries(dali_dr_ops PRIVATE ${plugin_libraries})
target_link_options(dali_dr_ops PRIVATE -Wl,--no-undefined -Wl,--exclude-libs,ALL)
set_target_properties(dali_dr_ops PROPERTIES OUTPUT_NAME dali_dr_ops LINKER_LANGUAGE CXX)
add_subdirectory(portable)
