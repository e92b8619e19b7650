#!/usr/bin/env python3
"""Count dual-issued multiply-adds in the machine code that radeonsi prints under AMD_DEBUG=cs,asm,stats.

usage: isa_count.py DUMP [--wave 32] [--min-dual PERCENT] [--max-vgpr N] [--no-spill]

Every compute shader of the dump that holds a loop with multiply-adds is one line; the gates look at its hot loop, the
innermost loop with the most multiply-adds. Exit status 1 where a gate fails or no such shader is in the dump.
"""
import argparse
import re
import sys

INSTRUCTION = re.compile(r"(v|s|ds|buffer|global|flat|image|scratch|tbuffer)_\w+")
MULTIPLY_ADD = re.compile(r"v_(?:dual_)?(?:fma|fmac|fmaak|fmamk|mac)_f32")


def shaders(dump):
    """(statistics line, disassembly) of each shader."""
    parts = re.split(r"^(Shader Stats: .*)$", dump, flags=re.M)
    return list(zip(parts[1::2], parts[2::2]))


def instructions(text):
    """Mnemonic lines in order, and the loops as (first, last): a branch backwards closes one.

    Targets come from labels where they are printed, else from the branch's encoding: 16 bits, in dwords."""
    lines, labels, at, loops, named, encoded = [], {}, {}, [], [], []
    position = 0
    for line in text.splitlines():
        line = line.strip()
        label = re.match(r"(BB\d+(?:_\d+)?):", line)
        if label:
            labels[label.group(1)] = len(lines)
            continue
        code, _, encoding = line.partition(";")
        words = re.findall(r"\b[0-9A-Fa-f]{8}\b", encoding)
        code = code.strip()
        if not words or not INSTRUCTION.match(code):
            continue
        at[position] = len(lines)
        branch = re.match(r"s_c?branch\S*\s+(\S+)", code)
        if branch:
            target = re.sub(r"^\.?L?", "", branch.group(1))
            if target.startswith("BB"):
                named.append((len(lines), target))
            else:
                offset = int(words[0], 16) & 0xFFFF
                encoded.append((len(lines), position + 1 + (offset - 0x10000 if offset & 0x8000 else offset)))
        lines.append(code)
        position += len(words)
    loops += [(labels[t], i) for i, t in named if labels.get(t, i + 1) <= i]
    loops += [(at[t], i) for i, t in encoded if at.get(t, i + 1) <= i]
    return lines, loops


def count(lines):
    found = dict(valu=0, fma=0, dual_fma=0, scratch=0, lds=0, vmem=0, smem=0)
    for code in lines:
        fma = len(MULTIPLY_ADD.findall(code))
        found["fma"] += fma
        if code.startswith("v_"):
            found["valu"] += 1
        if code.startswith("v_dual_"):
            found["dual_fma"] += fma
        found["scratch"] += code.startswith("scratch_")
        found["lds"] += code.startswith("ds_")
        found["vmem"] += code.startswith(("buffer_", "global_", "flat_"))
        found["smem"] += code.startswith(("s_load", "s_buffer_load"))
    return found


def hot_loop(lines, loops):
    """Counts of the innermost loop with the most multiply-adds, or None."""
    inner = [l for l in loops if not any(l != m and l[0] <= m[0] and m[1] <= l[1] and count(lines[m[0]:m[1] + 1])["fma"]
                                         for m in loops)]
    counts = [count(lines[a:b + 1]) for a, b in inner]
    return max(counts, key=lambda c: c["fma"], default=None)


def statistic(stats, name):
    found = re.search(rf"{name}: (\d+)", stats)
    return int(found.group(1)) if found else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump")
    parser.add_argument("--wave", type=int)
    parser.add_argument("--min-dual", type=float)
    parser.add_argument("--max-vgpr", type=int)
    parser.add_argument("--no-spill", action="store_true")
    args = parser.parse_args()

    failures, seen = [], 0
    with open(args.dump, errors="replace") as file:
        dump = file.read()
    for stats, text in shaders(dump):
        lines, loops = instructions(text)
        hot = hot_loop(lines, loops)
        if hot is None or hot["fma"] == 0:
            continue  # a copy or a clear
        seen += 1
        wave = 32 if "W32" in stats else 64 if "W64" in stats else 0
        vgprs = statistic(stats, "VGPRS")
        spilled = statistic(stats, "Spilled SGPRs") + statistic(stats, "Spilled VGPRs") + count(lines)["scratch"]
        share = 100 * hot["dual_fma"] / hot["fma"]
        print(f"wave{wave} vgprs {vgprs} spilled {spilled} code {len(lines)} | hot loop: {hot['fma']} multiply-adds, "
              f"{share:.1f} % dual-issued, {hot['fma'] / hot['valu']:.2f} a vector instruction, "
              f"{hot['vmem']} vector, {hot['smem']} scalar, {hot['lds']} shared loads and stores")
        if args.wave is not None and wave != args.wave:
            failures.append(f"wave{wave}, wanted wave{args.wave}")
        if args.min_dual is not None and share < args.min_dual:
            failures.append(f"{share:.1f} % of the multiply-adds are dual-issued, wanted {args.min_dual:.1f} %")
        if args.max_vgpr is not None and vgprs > args.max_vgpr:
            failures.append(f"{vgprs} VGPRs, wanted at most {args.max_vgpr}")
        if args.no_spill and spilled:
            failures.append("registers are spilled")
    if not seen:
        failures.append("no compute shader with a multiply-add loop in the dump")
    for failure in failures:
        print("isa_count: " + failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
