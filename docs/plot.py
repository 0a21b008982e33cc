# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Plots of the documentation as SVG text, with nothing but the standard library. docs/update.py writes them."""
import math

OURS, BEHIND, MARK, LINE, TEXT = "#1b6ca8", "#c8553d", "#b8860b", "#cccccc", "#333333"


def escaped(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def ratios(rows, title):
    """Bars of rows' ratios to their peers on a logarithmic scale, from the line of 1; a mark where a target is."""
    rows = [r for r in rows if r.get("ratio")]
    left, width, top, step = 420, 420, 46, 20
    values = [r["ratio"] for r in rows] + [r["target"] for r in rows if r.get("target")] + [1.0]
    low, high = (10 ** f(math.log10(g(values)) + e) for f, g, e in ((math.floor, min, -1e-9), (math.ceil, max, 1e-9)))
    height = top + step * len(rows) + 34

    def x(value):
        return round(left + width * math.log(value / low) / math.log(high / low), 1)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}"'
           ' font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="20" font-size="14" fill="{TEXT}">{escaped(title)}</text>']
    power = low
    while power <= high * 1.001:
        out.append(f'<line x1="{x(power)}" y1="{top - 6}" x2="{x(power)}" y2="{height - 26}" stroke="{LINE}"/>')
        out.append(f'<text x="{x(power)}" y="{height - 10}" fill="{TEXT}" text-anchor="middle">{power:g}</text>')
        power *= 10
    for i, r in enumerate(rows):
        y = top + step * i
        begin, end = sorted((x(1.0), x(r["ratio"])))
        reached = r["ratio"] >= (r.get("target") or 1.0)
        out.append(f'<text x="{left - 8}" y="{y + 11}" fill="{TEXT}" text-anchor="end">'
                   f'{escaped(r["what"])}: {escaped(r["peer"])}</text>')
        out.append(f'<rect x="{begin}" y="{y}" width="{max(1.0, round(end - begin, 1))}" height="14"'
                   f' fill="{OURS if reached else BEHIND}"/>')
        out.append(f'<text x="{left + width + 56}" y="{y + 11}" fill="{TEXT}" text-anchor="end">'
                   f'{r["ratio"]:.2f}</text>')
        if r.get("target"):
            at = x(r["target"])
            out.append(f'<line x1="{at}" y1="{y - 3}" x2="{at}" y2="{y + 17}" stroke="{MARK}" stroke-width="3"/>')
    out.append(f'<line x1="{x(1.0)}" y1="{top - 6}" x2="{x(1.0)}" y2="{height - 26}" stroke="{TEXT}"/>')
    return "\n".join([*out, "</svg>"]) + "\n"
