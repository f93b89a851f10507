"""The tests of the runtime of production; `children` are the programs that it starts."""
