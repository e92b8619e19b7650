/* CONVRT_API marks what the shared library exports; everything else is hidden. Usable from C and C++. */
#ifndef CONVRT_EXPORT_H
#define CONVRT_EXPORT_H

#if defined(__GNUC__) || defined(__clang__)
#define CONVRT_API __attribute__((visibility("default")))
#else
#define CONVRT_API
#endif

#endif
