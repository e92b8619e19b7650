# Cross-compiling to 64-bit Arm with Debian's packages; programs run under qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;/usr/aarch64-linux-gnu)

# Highway is headers only and the same for every machine, but its folder, /usr/include, is not: reach hwy/ by a link.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/highway)
file(CREATE_LINK /usr/include/hwy ${CMAKE_BINARY_DIR}/highway/hwy SYMBOLIC)
set(CONVRT_HIGHWAY_INCLUDE_DIR ${CMAKE_BINARY_DIR}/highway CACHE PATH "Folder of hwy/highway.h")
