// What the invocations of a GEMM's work group are to one another.
// barrier() alone orders what the invocations of a work group wrote, says its reference page. Not every compiler was tried;
// NVIDIA's was, and makes of the fence beside it a wait for more (1 to 7 %, bench/NOTES.md).
#ifndef FENCE
#define FENCE 1  // 0: only barrier()
#endif

int local_index() { return int(gl_LocalInvocationIndex); }

void sync_tiles() {
#if FENCE
  memoryBarrierShared();
#endif
  barrier();
}

// The part of a tile that an invocation owns: they form a grid of `columns` and an even number of rows. Two rows alternate
// from one invocation to the next, columns from every second to the next: of four neighbours two read the same filters
// and two the same pixels, which NVIDIA's shared memory serves together.
int grid_row(int columns) {
  uint pair = gl_LocalInvocationIndex / 2u;
  return int(pair / uint(columns) * 2u + gl_LocalInvocationIndex % 2u);
}
int grid_column(int columns) { return int(gl_LocalInvocationIndex / 2u % uint(columns)); }
