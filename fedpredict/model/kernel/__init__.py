"""The compiled kernels: of the trees (`trees.c`) with the arrays that it walks, of ids' hashes (`md5.c`), and of
the audit log's lines (`lines.c`).

ADR 0020 says why trees are compiled, ADR 0037 why hashes are, and what happens without, ADR 0047 why lines are.
"""
