/* The one place where the version stands; CMake reads it from here. */
#ifndef CONVRT_VERSION_H
#define CONVRT_VERSION_H

#define CONVRT_VERSION_MAJOR 0
#define CONVRT_VERSION_MINOR 1
#define CONVRT_VERSION_PATCH 0
#define CONVRT_VERSION_STRING "0.1.0"

#endif
