# SPDX-License-Identifier: Apache-2.0
"""What needs no peers: turns, figures, the table, the picture, the shapes. Run with python3."""
import unittest
import xml.etree.ElementTree

import contest
import figures
import main
import plot
import shapes


def cell(times, **changes):
    results = {name: {"milliseconds": value} if isinstance(value, float) else {"reason": value}
               for name, value in times.items()}
    return figures.judge({"shape": "s", "dtype": "f32", "routing": "uniform", "tokens": 8, "results": results,
                          "limit_milliseconds": 1.0, **changes})


class Machine:
    """A clock that only calls move."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def sampler(self, name, seconds):
        def call(n):
            self.log.append((name, n))
            self.now += seconds

        return contest.Sampler(name, call, lambda: self.now)


class Turns(unittest.TestCase):
    def test_they_alternate(self):
        machine, pauses = Machine(), []
        a, b = machine.sampler("a", 1.0), machine.sampler("b", 2.0)
        contest.run([a, b], 3, pauses.append, lambda: machine.log.append("reading"))
        self.assertEqual(machine.log[:2], [("a", 0), ("b", 0)])
        self.assertEqual(machine.log[2:], ["reading", ("a", 0), ("b", 0), "reading", ("a", 1), ("b", 1),
                                           "reading", ("a", 2), ("b", 2)])
        self.assertEqual((a.samples, b.samples), ([1.0] * 3, [2.0] * 3))
        self.assertEqual(len(pauses), 9)

    def test_short_calls_are_warmed_and_repeated(self):
        machine = Machine()
        sampler = machine.sampler("a", 1 / 64)
        contest.run([sampler], 2, lambda seconds: None)
        self.assertEqual(len(sampler.samples), 8)  # two turns of at least 0.05 seconds
        self.assertEqual(len(machine.log), 3 + 2 + 8)  # warm-up, a call before each turn, the timed ones

    def test_the_hopeless_stop_early(self):
        machine = Machine()
        fast, slow = machine.sampler("a", 1.0), machine.sampler("b", 4.5)
        contest.run([fast, slow], 7, lambda seconds: None)
        self.assertEqual((len(fast.samples), len(slow.samples)), (7, contest.HOPELESS_TURNS))


class Figures(unittest.TestCase):
    def test_medians(self):
        summary = figures.summarise([0.005, 0.001, 0.002, 0.004, 0.003])
        self.assertAlmostEqual(summary["milliseconds"], 3)
        self.assertAlmostEqual(summary["milliseconds_p10"], 1)
        self.assertAlmostEqual(summary["milliseconds_p90"], 5)
        self.assertEqual(summary["samples"], 5)

    def test_the_best_peer_counts(self):
        judged = cell({"moecl": 2.0, "a": 5.0, "b": 3.0, "c": "cannot"})
        self.assertEqual(judged["best_peer"], "b")
        self.assertAlmostEqual(judged["ratio"], 1.5)
        self.assertAlmostEqual(judged["fraction_of_limit"], 0.5)

    def test_the_limit_is_of_the_medians(self):
        readings = [(8e9, 100e9, 300e9), (10e9, 50e9, 200e9), (20e9, 200e9, 100e9)]
        self.assertAlmostEqual(figures.limits(readings, 1e9, 5e9, "f32")["limit_milliseconds"], 100)  # of reading
        self.assertAlmostEqual(figures.limits(readings, 1e8, 5e9, "f16")["limit_milliseconds"], 50)
        self.assertAlmostEqual(figures.limits(readings, 1e8, 5e9, "bf16")["limit_milliseconds"], 25)
        self.assertAlmostEqual(figures.limits(readings, 1e9, 5e9, "f32")["device_fp32_gflops"], 100)

    def test_nothing_to_compare(self):
        self.assertIsNone(cell({"moecl": 2.0, "a": "cannot"})["ratio"])
        self.assertIsNone(cell({"moecl": "cannot", "a": 2.0})["ratio"])
        self.assertIsNone(figures.overall([cell({"moecl": 2.0})]))

    def test_overall(self):
        total = figures.overall([cell({"moecl": 1.0, "a": 4.0}), cell({"moecl": 2.0, "a": 1.0})])
        self.assertEqual((total["cells"], total["faster"]), (2, 1))
        self.assertAlmostEqual(total["geometric_mean"], 2**0.5)
        self.assertAlmostEqual(total["smallest"], 0.5)
        self.assertAlmostEqual(total["largest"], 4)

    def test_three_figures(self):
        shown = [figures.milliseconds(value) for value in (0.01234, 0.5678, 1.234, 56.78, 1234.5)]
        self.assertEqual(shown, ["0.0123", "0.568", "1.23", "56.8", "1234"])

    def test_table(self):
        text = figures.table([cell({"moecl": 2.0, "a": 3.0}), cell({"moecl": 2.0, "a": "cannot"})], ["moecl", "a"])
        head, first, second = text.splitlines()
        self.assertEqual(head.split(), "shape type routing T moecl a best peer ratio of limit".split())
        self.assertEqual(first.split(), "s f32 uniform 8 2.00 3.00 a 1.50 50 %".split())
        self.assertEqual(second.split(), "s f32 uniform 8 2.00 - - - 50 %".split())

    def test_absences_name_the_reason_once(self):
        cells = [cell({"moecl": 2.0, "a": "cannot"}), cell({"moecl": 2.0, "a": "cannot"}, tokens=9)]
        self.assertEqual(figures.absences(cells), ["a: cannot (s f32 T=8 and 1 more)"])


class Picture(unittest.TestCase):
    def test_a_dot_for_each_peer_of_a_cell(self):
        cells = [cell({"moecl": 2.0, "a": 4.0, "b": 1.0}), cell({"moecl": 2.0, "a": 3.0, "b": "cannot"})]
        tree = xml.etree.ElementTree.fromstring(plot.svg(cells, ["moecl", "a", "b"], "<title & all>"))
        space = "{http://www.w3.org/2000/svg}"
        dots = [dot for dot in tree.iter(f"{space}circle") if dot.find(f"{space}title") is not None]
        self.assertEqual([dot.find(f"{space}title").text for dot in dots], ["a: 2.00", "b: 0.50", "a: 1.50"])
        x = [float(dot.get("cx")) for dot in dots]
        one = next(float(line.get("x1")) for line in tree.iter(f"{space}line") if line.get("stroke") == "#000")
        self.assertTrue(x[1] < one < x[2] < x[0])
        self.assertAlmostEqual(x[0] - one, one - x[1], delta=0.2)  # twice and half are as far
        self.assertIn("<title & all>", [text.text for text in tree.iter(f"{space}text")])

    def test_ticks(self):
        self.assertEqual([round(value, 3) for value in plot.ticks(0.5, 20)], [0.5, 1, 2, 5, 10, 20])


class Options(unittest.TestCase):
    def test_names_are_those_of_the_tool(self):
        self.assertEqual(shapes.named()["olmoe-1b-7b"], shapes.Shape("olmoe-1b-7b", 64, 2048, 1024, 8))
        self.assertGreaterEqual(len(shapes.named()), 6)

    def test_shapes(self):
        read = shapes.parse("olmoe-1b-7b,gpt-oss-20b 8,64,32,2;4,8,16,1")
        self.assertEqual([shape.name for shape in read], ["olmoe-1b-7b", "gpt-oss-20b", "8,64,32,2", "4,8,16,1"])
        self.assertEqual(read[2].weight_bytes("f16"), 2 * 3 * 8 * 64 * 32)
        for wrong in ("olmoe", "1,2,3", "2,8,8,3", "0,8,8,0", ""):
            with self.assertRaises(ValueError):
                shapes.parse(wrong)

    def test_defaults(self):
        options = main.parse_options([])
        self.assertEqual(options.tokens, [1, 8, 64, 512])
        self.assertEqual(options.dtypes, ["f32", "f16", "bf16"])
        self.assertEqual(options.shapes[0].name, "olmoe-1b-7b")
        self.assertEqual(options.peers, list(main.PEERS))


if __name__ == "__main__":
    unittest.main()
