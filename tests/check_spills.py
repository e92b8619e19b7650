#!/usr/bin/env python3
"""Finds vector registers that the compiler keeps on the stack inside hot loops of the CPU kernels.

usage: tests/check_spills.py BUILD_DIR

A hot loop is an innermost loop (a backward jump with no other one inside) of at least eight vector multiply-adds. It may
not load or store a vector register relative to the stack: each such access costs an issue slot of every turn, and the
micro-kernels are laid out to need none.
"""
import pathlib
import re
import subprocess
import sys

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
TARGET = re.compile(r"^([0-9a-f]+)\b")
MULTIPLY_ADD = re.compile(r"^(vfn?m(add|sub)\d+p[sd]|v?mulp[sd])$")
STACK_VECTOR = {base: re.compile(rf"\(%{base}[,)].*%[xyz]mm|%[xyz]mm.*\(%{base}[,)]") for base in ("rsp", "rbp")}
SCALAR = re.compile(r"^(v?movs[sd]|v?mov[dq]|vp?broadcast\w+|v?cvt\w+)$")  # one number on the stack is no spilled vector
LEAST_MULTIPLY_ADDS = 8
# Listed, but no failure: part of a file or function name, and why.
TOLERATED = {
    "Winograd<4, true>::finish_panel": "runs once per tile, not once per term: half a tile is 12 vectors, which sixteen registers do not hold",
    "Winograd<4, false>::finish_panel": "the same",
    "Winograd<4, true>::transform_input": "runs once per patch, not once per term; sixteen registers do not hold it all",
    "Winograd<4, false>::transform_input": "the same",
    "::transform_filters_of<": "runs once per weight, when a plan is made; nine taps and what they become outnumber sixteen registers",
    "activate_row": "runs once per output, not once per term; the polynomials' constants outnumber the registers",
    "N_SSE4::strip<7,": "seven weights, four sums, a source vector and, without fused multiply-add, a product crowd sixteen registers",
}


def functions(object_file):
    """Yields (name, [(address, mnemonic, operands)])."""
    text = subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", object_file], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    name, body = None, []
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            if body:
                yield name, body
            name, body = match[1], []
        elif match := INSTRUCTION.match(line):
            body.append((int(match[1], 16), match[2], match[3]))
    if body:
        yield name, body


def innermost_loops(body):
    """Yields the instructions of each loop that holds no other loop."""
    index = {address: i for i, (address, _, _) in enumerate(body)}
    loops = []
    for i, (address, mnemonic, operands) in enumerate(body):
        target = TARGET.match(operands) if mnemonic.startswith("j") else None
        if target and (start := index.get(int(target[1], 16))) is not None and start <= i:
            loops.append((start, i))
    for start, end in loops:
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in loops):
            yield body[start:end + 1]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    objects = sorted(pathlib.Path(sys.argv[1]).glob("CMakeFiles/convrt_objects.dir/src/cpu/kernels/*.o"))
    if not objects:
        sys.exit(f"no kernel objects under {sys.argv[1]}: build convrt_objects first")
    hot, bad, tolerated = 0, 0, 0
    for path in objects:
        for name, body in functions(path):
            # rbp points to the stack only where the function says so; elsewhere it is a register like any other.
            framed = any(mnemonic == "mov" and operands == "%rsp,%rbp" for _, mnemonic, operands in body)
            bases = ("rsp", "rbp") if framed else ("rsp",)
            for loop in innermost_loops(body):
                if sum(bool(MULTIPLY_ADD.match(mnemonic)) for _, mnemonic, _ in loop) < LEAST_MULTIPLY_ADDS:
                    continue
                hot += 1
                spills = [i for i in loop if not SCALAR.match(i[1]) and any(STACK_VECTOR[b].search(i[2]) for b in bases)]
                if spills:
                    reason = next((why for part, why in TOLERATED.items() if part in f"{path.name} {name}"), None)
                    tolerated += reason is not None
                    bad += reason is None
                    print(f"{'tolerated: ' if reason else ''}{path.name}: {name}: loop at {loop[0][0]:x} of {len(loop)} instructions, "
                          f"{len(spills)} vector accesses to the stack, the first: {spills[0][1]} {spills[0][2]}")
    print(f"{hot} hot loops in {len(objects)} files, {bad} with vector registers on the stack, "
          f"{tolerated} more tolerated")
    if bad or not hot:
        sys.exit(1)


if __name__ == "__main__":
    main()
