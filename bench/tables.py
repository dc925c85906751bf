# SPDX-License-Identifier: Apache-2.0
"""Tables of text: head and cells are strings, `numbers` names the columns that are set to the right."""


def text_table(head, numbers, cells):
    lines = [head] + cells
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) if name in numbers else cell.ljust(w)
                               for name, cell, w in zip(head, line, widths)).rstrip() for line in lines)


def markdown_table(head, numbers, cells):
    lines = ["| " + " | ".join(head) + " |",
             "|" + "|".join(" ---: " if name in numbers else " --- " for name in head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    return "\n".join(lines) + "\n"
