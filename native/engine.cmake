# The targets, once a compiler is known to be there.

if(CMAKE_SIZEOF_VOID_P LESS 8)
    message(FATAL_ERROR "edgesparse needs a 64-bit system. On a Raspberry Pi install the 64-bit "
                        "Raspberry Pi OS: a 64-bit kernel under 32-bit programs is not enough.")
endif()

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# ---- sources, each with the instructions its name allows ---------------------------------------
# No -mfma and no contraction: a fused multiply-add rounds once where the other kernels round
# twice, and results are to be the same bits on every instruction set.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(es_isas avx2 avxvnni avx512vnni amx)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(es_isas neon neondot)
else()
    set(es_isas "")
endif()

set(es_flags_avx2 -mavx2 -mf16c)
set(es_flags_avxvnni -mavx2 -mf16c -mavxvnni)
set(es_flags_avx512vnni -mavx2 -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni)
set(es_flags_amx ${es_flags_avx512vnni} -mamx-tile -mamx-int8)
set(es_flags_neon "")
set(es_flags_neondot -march=armv8.2-a+dotprod+fp16)
# GCC's first scheduler moves loads up until sums spill; these CPUs reorder by themselves.
# bench/arm_counts.py, t2 with dot product: 81 modelled cycles for 1,000 weights instead of 115.
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    list(APPEND es_flags_neon -fno-schedule-insns)
    list(APPEND es_flags_neondot -fno-schedule-insns)
endif()

file(GLOB es_plain CONFIGURE_DEPENDS src/*.c ops/*.c repack/*.c kernels/*/*_scalar.c)
set(es_sources ${es_plain})
foreach(isa IN LISTS es_isas)
    file(GLOB es_files CONFIGURE_DEPENDS kernels/*/*_${isa}.c)
    set_source_files_properties(${es_files} PROPERTIES COMPILE_OPTIONS "${es_flags_${isa}}")
    list(APPEND es_sources ${es_files})
endforeach()

# A kernel file whose name ends in no known instruction set would silently not be compiled.
file(GLOB es_all_kernels CONFIGURE_DEPENDS kernels/*/*.c)
foreach(file IN LISTS es_all_kernels)
    if(NOT file MATCHES "_(scalar|avx2|avxvnni|avx512vnni|amx|neon|neondot)\\.c$")
        message(FATAL_ERROR "${file}: the name must end in an instruction set, see native/README.md")
    endif()
endforeach()

# ---- flags -------------------------------------------------------------------------------------

set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")

add_library(es_options INTERFACE)
target_compile_options(es_options INTERFACE -ffp-contract=off -fno-math-errno -Wall -Wextra -Wconversion)
if(ES_WERROR)
    target_compile_options(es_options INTERFACE -Werror)
endif()
if(ES_SANITIZE)
    set(es_sanitize -fsanitize=${ES_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
    target_compile_options(es_options INTERFACE ${es_sanitize})
    target_link_options(es_options INTERFACE ${es_sanitize})
endif()
# Strict C11 hides POSIX (clock_gettime, posix_memalign, thread affinity) unless asked for.
target_compile_definitions(es_options INTERFACE _GNU_SOURCE)
target_link_libraries(es_options INTERFACE Threads::Threads)
if(UNIX)
    target_link_libraries(es_options INTERFACE m)
endif()

add_library(es_core STATIC ${es_sources})
target_include_directories(es_core PUBLIC include PRIVATE . src)
target_link_libraries(es_core PUBLIC es_options)

# ---- the Python module -------------------------------------------------------------------------

if(ES_MODULE)
    set(es_header "${CMAKE_CURRENT_SOURCE_DIR}/include/edgesparse.h")
    set(es_module_c "${CMAKE_CURRENT_BINARY_DIR}/_edgesparse.c")
    add_custom_command(
        OUTPUT "${es_module_c}"
        COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/build.py" "${es_header}" "${es_module_c}"
        DEPENDS "${es_header}" build.py
        COMMENT "Writing the Python module from edgesparse.h"
        VERBATIM)
    python_add_library(_edgesparse MODULE WITH_SOABI USE_SABI 3.10 "${es_module_c}")
    target_include_directories(_edgesparse PRIVATE include)
    target_link_libraries(_edgesparse PRIVATE es_core)
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
        # A Raspberry Pi 5 has pages of 16 KiB, other systems of up to 64 KiB.
        target_link_options(_edgesparse PRIVATE -Wl,-z,max-page-size=65536)
    endif()
    # Generated code is not ours to keep free of warnings.
    set_source_files_properties("${es_module_c}" PROPERTIES COMPILE_OPTIONS "-w")
    install(TARGETS _edgesparse DESTINATION edgesparse/_native)
endif()

# ---- the checker -------------------------------------------------------------------------------

file(GLOB es_check_sources CONFIGURE_DEPENDS check/*.c)
if(es_check_sources)
    add_executable(es_check EXCLUDE_FROM_ALL ${es_check_sources})
    target_include_directories(es_check PRIVATE . src)
    target_link_libraries(es_check PRIVATE es_core)
    # Plain loops to compare with; GCC 12 for aarch64 fails with an internal error on vectorising them.
    target_compile_options(es_check PRIVATE -fno-tree-vectorize)
endif()

# ---- the runner: a pre-packed model without Python ----------------------------------------------

add_library(es_runner STATIC EXCLUDE_FROM_ALL run/esp.c run/greedy.c)
target_include_directories(es_runner PUBLIC . PRIVATE src)
target_link_libraries(es_runner PUBLIC es_core)

add_executable(es_run EXCLUDE_FROM_ALL run/es_run.c)
target_link_libraries(es_run PRIVATE es_runner)

# Files with mistakes in them, for the runner to refuse or survive.
add_executable(es_fuzz EXCLUDE_FROM_ALL run/es_fuzz.c)
target_include_directories(es_fuzz PRIVATE src)
target_link_libraries(es_fuzz PRIVATE es_runner)
