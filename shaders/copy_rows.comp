#version 430 core
// copy_rows: the same rows of many planes, between images too large for a storage block and a band of their rows that
// fits one. No variant: a step that src/gl/bands.cpp puts around any of them.
layout(local_size_x = 256) in;

layout(std430, binding = 0) readonly restrict buffer From { float from[]; };
layout(std430, binding = 2) writeonly restrict buffer To { float to[]; };
layout(std140, binding = 3) uniform Copy {
  int planes, count;           // `count` floats stand together in each plane
  int from_plane, to_plane;    // floats from one plane to the next
  int from_offset, to_offset;  // of the first, in what is bound
} copy;

void main() {
  uint count = uint(copy.count), end = uint(copy.planes) * count;
  for (uint i = gl_GlobalInvocationID.x; i < end; i += gl_NumWorkGroups.x * 256u) {
    int plane = int(i / count), at = int(i - uint(plane) * count);
    to[copy.to_offset + plane * copy.to_plane + at] = from[copy.from_offset + plane * copy.from_plane + at];
  }
}
