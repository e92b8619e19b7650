#!/usr/bin/env python3
"""Count dual-issued multiply-adds in the machine code that radeonsi prints under AMD_DEBUG=cs,asm,stats.

usage: isa_count.py DUMP [--wave 32] [--min-dual PERCENT] [--min-fma RATIO] [--max-lds BYTES] [--max-vgpr N] [--no-spill]
       isa_count.py DUMP --row NAME

Every compute shader of the dump that holds a loop with multiply-adds is one line; the gates look at its hot loop, the
innermost loop with the most multiply-adds. Exit status 1 where a gate fails or no such shader is in the dump. With
--row the shader with the most multiply-adds in its hot loop becomes a row of a Markdown table (tests/rdna3/table).
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


def memory_bytes(code):
    """Bytes an invocation loads by one instruction: ds_load_2addr_b64 loads twice eight."""
    width = re.search(r"_[bu](\d+)", code.split()[0])
    return int(width.group(1)) // 8 * (2 if "2addr" in code else 1) if width else 0


def count(lines):
    found = dict(valu=0, fma=0, dual_fma=0, scratch=0, lds=0, lds_bytes=0, vmem=0, vmem_bytes=0, smem=0)
    for code in lines:
        fma = len(MULTIPLY_ADD.findall(code))
        found["fma"] += fma
        if code.startswith("v_"):
            found["valu"] += 1
        if code.startswith("v_dual_"):
            found["dual_fma"] += fma
        found["scratch"] += code.startswith("scratch_")
        found["lds"] += code.startswith("ds_")
        found["lds_bytes"] += memory_bytes(code) if code.startswith("ds_load") else 0
        found["vmem"] += code.startswith(("buffer_", "global_", "flat_"))
        found["vmem_bytes"] += memory_bytes(code) if code.startswith(("buffer_load", "global_load")) else 0
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


# A Radeon RX 7900 XTX, from AMD's ISA and product pages: 96 compute units of two SIMDs that each start one instruction of
# 32 lanes a cycle at the boost clock of 2.5 GHz; a compute unit reads 128 bytes a cycle from LDS and 64 from its L0
# cache. A vector instruction of wave64 takes two cycles unless the hardware issues both halves of a multiply-add at
# once, so its bound is a range.
UNITS, SIMDS, LANES, LDS_BYTES, L0_BYTES, HERTZ = 96, 2, 32, 128, 64, 2.5e9
REGISTERS = 1536  # of 32 lanes, a SIMD


def bounds(hot, wave):
    """TFLOP/s that the hot loop's instructions allow: (without, with) pairing of wave64's halves."""
    fma, terms = hot["fma"], []
    for paired in (False, True):
        cycles = hot["valu"] if wave == 32 else 2 * hot["valu"] - (fma if paired else 0)  # a wave, on its SIMD
        lanes = wave * fma / cycles * SIMDS
        if hot["lds_bytes"]:
            lanes = min(lanes, LDS_BYTES * fma / hot["lds_bytes"])
        if hot["vmem_bytes"]:
            lanes = min(lanes, L0_BYTES * fma / hot["vmem_bytes"])
        terms.append(2 * lanes * UNITS * HERTZ * 1e-12)
    return terms


def row(name, hot, wave, vgprs):
    low, high = bounds(hot, wave)
    waves = min(16, REGISTERS * 32 // wave // max(vgprs, 1))
    fma = hot["fma"]
    return (f"| {name} | {wave} | {vgprs} | {waves} | {hot['valu'] / fma:.2f} | {100 * hot['dual_fma'] / fma:.0f} % | "
            f"{hot['lds'] / fma:.3f} ({hot['lds_bytes'] / fma:.2f}) | {hot['vmem'] / fma:.3f} ({hot['vmem_bytes'] / fma:.2f}) | "
            f"{hot['smem'] / fma:.3f} | {low:.0f}{f' to {high:.0f}' if high - low > 0.5 else ''} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump")
    parser.add_argument("--wave", type=int)
    parser.add_argument("--min-dual", type=float)
    parser.add_argument("--min-fma", type=float, help="multiply-adds a vector instruction")
    parser.add_argument("--max-lds", type=float, help="bytes read from LDS a multiply-add")
    parser.add_argument("--max-vgpr", type=int)
    parser.add_argument("--row")
    parser.add_argument("--no-spill", action="store_true")
    args = parser.parse_args()

    failures, seen, rows = [], 0, []
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
        if args.row:
            rows.append((hot["fma"], row(args.row, hot, wave, vgprs)))
            continue
        print(f"wave{wave} vgprs {vgprs} spilled {spilled} code {len(lines)} | hot loop: {hot['fma']} multiply-adds, "
              f"{share:.1f} % dual-issued, {hot['fma'] / hot['valu']:.2f} a vector instruction, "
              f"{hot['vmem']} vector, {hot['smem']} scalar, {hot['lds']} shared loads and stores")
        if args.wave is not None and wave != args.wave:
            failures.append(f"wave{wave}, wanted wave{args.wave}")
        if args.min_dual is not None and share < args.min_dual:
            failures.append(f"{share:.1f} % of the multiply-adds are dual-issued, wanted {args.min_dual:.1f} %")
        if args.min_fma is not None and hot["fma"] / hot["valu"] < args.min_fma:
            failures.append(f"{hot['fma'] / hot['valu']:.2f} multiply-adds a vector instruction, wanted {args.min_fma}")
        if args.max_lds is not None and hot["lds_bytes"] / hot["fma"] > args.max_lds:
            failures.append(f"{hot['lds_bytes'] / hot['fma']:.2f} LDS bytes a multiply-add, wanted {args.max_lds}")
        if args.max_vgpr is not None and vgprs > args.max_vgpr:
            failures.append(f"{vgprs} VGPRs, wanted at most {args.max_vgpr}")
        if args.no_spill and spilled:
            failures.append("registers are spilled")
    if rows:
        print(max(rows)[1])
    if not seen:
        failures.append("no compute shader with a multiply-add loop in the dump")
    for failure in failures:
        print("isa_count: " + failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
