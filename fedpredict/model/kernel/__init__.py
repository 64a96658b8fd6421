"""The compiled kernel of the trees (`trees.c`), and the arrays that it walks. ADR 0020 says why it is compiled."""
