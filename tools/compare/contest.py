# SPDX-License-Identifier: Apache-2.0
"""Contenders take turns (A B C A B C ...), so that what disturbs the machine disturbs them alike."""
import math
import time

TURN_SECONDS = 0.05  # of timed calls in a turn
CALLS_MAX = 50  # in a turn
WARM_SECONDS = 0.1  # calls shorter than this start a turn with one that is not timed
HOPELESS = 4  # times slower than the fastest: takes only HOPELESS_TURNS turns
HOPELESS_TURNS = 3
PAUSE_SECONDS = 0.02


class Sampler:
    """One contender's calls: call(n) computes with the n-th routing."""

    def __init__(self, name, call, clock=time.perf_counter):
        self.name, self.call, self.clock = name, call, clock
        self.samples = []

    def time(self, n):
        start = self.clock()
        self.call(n)
        return self.clock() - start

    def warm_up(self):
        """Whoever checked the result has called before, so that all is compiled; this tells how long a call takes."""
        self.expected = self.time(0)
        if self.expected < WARM_SECONDS:
            self.expected = min(self.expected, self.time(1), self.time(2))

    def turn(self, number):
        """The n-th turn of every contender begins with the n-th routing."""
        if self.expected < WARM_SECONDS:
            self.call(number + 1000)
        for i in range(min(CALLS_MAX, max(1, math.ceil(TURN_SECONDS / self.expected)))):
            self.samples.append(self.time(number + i))


def run(samplers, turns, pause=time.sleep, before_turn=lambda: None):
    """Warms every contender up, then takes `turns` turns, before each of which before_turn() is called. The pause lets
    the threads of the one before, which wait for more work in a loop, go to sleep."""
    for sampler in samplers:
        sampler.warm_up()
    fastest = min(sampler.expected for sampler in samplers)
    for number in range(turns):
        pause(PAUSE_SECONDS)
        before_turn()
        for sampler in samplers:
            if number < HOPELESS_TURNS or sampler.expected <= HOPELESS * fastest:
                pause(PAUSE_SECONDS)
                sampler.turn(number)
