"""What runs inside a box of the sandbox: its walls, the warm interpreter, the program and its judge. Python's own library alone,
so that a copy of the interpreter, which every program gets, stays small."""
