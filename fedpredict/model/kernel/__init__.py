"""The compiled kernels: of trees (`trees.c`) with its arrays, of ids' hashes (`md5.c`), of audit lines (`lines.c`).

ADR 0020 says why trees are compiled, ADR 0037 why hashes are, and what happens without, ADR 0047 why lines are.
"""
