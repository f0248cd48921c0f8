"""`python benchmarks`: run all benchmark programs and print one report."""

from harness import suite

if __name__ == "__main__":
    suite.main()
