"""Pipelines that the tests of the command line type about."""

ARITHMETIC = '''
    from hooke import pipeline, task

    FACTOR = 3


    @task
    def square(x: int) -> int:
        print("squaring", x)
        return x * x * FACTOR


    @task
    def total(xs: list[int], bonus: int = 0) -> int:
        return sum(xs) + bonus


    @pipeline
    def job(n: int = 5, bonus: int = 0) -> int:
        """Adds squares."""
        return total(square.map(range(n)), bonus)
'''

SLOW = """
    import time
    from pathlib import Path

    from hooke import pipeline, task

    HERE = Path(__file__).parent


    @task
    def quick(x: int) -> int:
        with open(HERE / "ran", "a") as file:
            file.write(f"quick {x}\\n")
        return x


    @task
    def slow(x: int) -> int:
        print("working on", x, flush=True)
        with open(HERE / "ran", "a") as file:
            file.write(f"slow {x}\\n")
        while not (HERE / "go").exists():
            time.sleep(0.01)
        return x * 10


    @task
    def total(xs: list[int], ys: list[int]) -> int:
        return sum(xs) + sum(ys)


    @pipeline
    def job(n: int = 3) -> int:
        xs = quick.map(range(n))
        return total(xs, slow.map(xs))
"""
"""`slow` waits for the file `go`; each task notes that it ran in the file `ran`."""
