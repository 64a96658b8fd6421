"""The compiled kernels: of the trees (`trees.c`) with the arrays that it walks, and of ids' hashes (`md5.c`, `hmac.c`).

ADR 0020 says why trees are compiled, ADR 0037 and 0047 why hashes are, and what happens without.
"""
