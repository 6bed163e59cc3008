# Builds for 64-bit ARM Linux on another machine: cmake -DCMAKE_TOOLCHAIN_FILE=native/aarch64-linux-gnu.cmake
# Debian: gcc-aarch64-linux-gnu; qemu-user to run what was built.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

# Programs come from this machine, headers and libraries from the other's.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

find_program(ES_QEMU qemu-aarch64)
if(ES_QEMU)
    set(CMAKE_CROSSCOMPILING_EMULATOR "${ES_QEMU}")
endif()
