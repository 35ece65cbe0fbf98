"""The scheduler half of remote_g2.vllm in C, with requests as vLLM has them, beside a real node."""

import sys
import unittest
import weakref
from types import SimpleNamespace

import test_library
from remote_g2 import library, native
from test_library import TOKENS, hashes


class Request:
    def __init__(self, name, names, tokens=None, **more):
        self.request_id, self.block_hashes = name, names
        self.num_tokens = len(names) * TOKENS + 1 if tokens is None else tokens
        self.skip_reading_prefix_cache, self.lora_request, self.mm_features = False, None, []
        self.prompt_embeds = None
        vars(self).update(more)


class Blocks:
    def __init__(self, numbers):
        self.numbers = numbers

    def get_block_ids(self):
        return (self.numbers,)


def output(new=(), cached=(), tokens=None, resumed=()):
    """A step: `new` are (request id, tokens computed before, blocks), and so are `cached`."""
    tokens = tokens or {}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=computed, block_ids=(blocks,))
            for name, computed, blocks in new
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[name for name, _, _ in cached],
            num_computed_tokens=[computed for _, computed, _ in cached],
            new_block_ids=[(blocks,) if blocks else None for _, _, blocks in cached],
            resumed_req_ids=set(resumed),
        ),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
    )


class Engine(test_library.Engine):
    """Steps that the scheduler half in C plans."""

    def __init__(self, socket):
        super().__init__(socket)
        self.calls = native.translator(self.scheduler, TOKENS)

    def play(self, step):
        """What the rank says to a step's plan: requests whose loads ended, and blocks with errors."""
        found = self.calls.plan(step)
        if found is None:
            return None
        plan, loading = found
        self.rank.begin(plan)
        self.rank.load()
        self.rank.stage()
        report = self.rank.report()
        done = [loading[number] for number in self.rank.finished()], self.rank.load_errors()
        if report:
            self.calls.absorb([report])
        return done

    def answer(self, request, computed=0):
        found = []

        def look():
            found[:] = self.calls.match(request, computed)
            return found[0] is not None

        assert self.until(look)
        return tuple(found)

    def ready(self, request, computed=0, blocks=4):
        """The answer to a request once its blocks are saved: whoever asked before that computes."""
        found = []

        def look():
            self.calls.finished(request)
            self.calls.new_request(request)
            found[:] = self.answer(request, computed)
            return found == [blocks * TOKENS, True]

        self.until(look)
        return tuple(found)

    def save_by_calls(self, names, seed):
        for block in range(len(names)):
            self.fill(block, 10 * block + seed)
        request = Request(f"saves {seed}", names)
        self.calls.new_request(request)
        assert self.answer(request) == (0, False)
        self.calls.bind(request, Blocks([]), 0)
        self.play(
            output([(request.request_id, 0, list(range(len(names))))], tokens={request.request_id: request.num_tokens})
        )
        self.calls.finished(request)


class BesideANode(test_library.BesideANode):
    def start(self):
        engine = Engine(self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.step()
        self.addCleanup(engine.close)
        return engine

    def test_a_request_loads_what_another_saved(self):
        engine, names = self.start(), hashes(4, b"native")
        engine.save_by_calls(names, 5)
        request = Request("loads", names)
        self.assertEqual(engine.ready(request, TOKENS, blocks=3), (3 * TOKENS, True))
        self.assertFalse(engine.calls.has_bound)
        engine.calls.bind(request, Blocks([3, 9, 8, 12, 14]), 3 * TOKENS)
        self.assertTrue(engine.calls.has_bound)
        # Nothing is computed in the step: it is planned for the load alone.
        self.assertEqual(engine.play(output()), (["loads"], []))
        self.assertFalse(engine.calls.has_bound)
        for place, block in enumerate([9, 8, 12]):
            self.assertTrue(engine.holds(block, 10 * (place + 1) + 5))

    def test_the_last_token_is_never_loaded(self):
        engine, names = self.start(), hashes(4, b"last token")
        engine.save_by_calls(names, 6)
        request = Request("all of it", names, tokens=4 * TOKENS)
        self.assertEqual(engine.ready(request, blocks=3), (3 * TOKENS, True))

    def test_blocks_that_fill_later_are_saved_and_resumed_ones_told_whole(self):
        engine, names = self.start(), hashes(4, b"later")
        request = Request("grows", names[:2], tokens=2 * TOKENS + 1)
        for block in range(6):
            engine.fill(block, 10 * block + 3)
        engine.calls.new_request(request)
        self.assertEqual(engine.answer(request), (0, False))
        self.assertEqual(
            engine.play(output([("grows", 0, [0, 1, 2])], tokens={"grows": 2 * TOKENS + 1})), ([], [])
        )
        # Soon nothing is left to be staged; a step that brings nothing then is planned by nobody.
        steps = (
            engine.play(output(cached=[("grows", 2 * TOKENS + 1 + step, [])], tokens={"grows": 1}))
            for step in range(50)
        )
        self.assertIn(None, steps)
        request.block_hashes.append(names[2])
        self.assertEqual(
            engine.play(output(cached=[("grows", 3 * TOKENS - 1, [3])], tokens={"grows": 1})), ([], [])
        )
        # It was preempted, and its blocks are others now.
        request.block_hashes.append(names[3])
        for place, block in enumerate([4, 5, 6, 7]):
            engine.fill(block, 10 * place + 3)
        step = output(cached=[("grows", 0, [4, 5, 6, 7])], tokens={"grows": 4 * TOKENS}, resumed=["grows"])
        self.assertEqual(engine.play(step), ([], []))
        engine.calls.finished(request)
        again = Request("again", names)
        self.assertEqual(engine.ready(again), (4 * TOKENS, True))
        engine.calls.bind(again, Blocks([8, 9, 10, 11]), 4 * TOKENS)
        self.assertEqual(engine.play(output()), (["again"], []))
        self.assertTrue(all(engine.holds(8 + place, 10 * place + 3) for place in range(4)))

    def test_requests_whose_content_their_hashes_do_not_name_are_none_of_ours(self):
        engine, names = self.start(), hashes(4, b"not ours")
        engine.save_by_calls(names, 7)
        for more in (
            {"skip_reading_prefix_cache": True},
            {"lora_request": object()},
            {"mm_features": ["an image"]},
            {"prompt_embeds": [1.0]},
        ):
            request = Request(f"with {more}", names, **more)
            engine.calls.new_request(request)
            self.assertEqual(engine.calls.match(request, 0), (0, False))
            engine.calls.bind(request, Blocks([0, 1]), 0)
            engine.calls.finished(request)
        # What an older or a newer vLLM has not is what none of its requests has.
        plain = Request("plain", names)
        del plain.mm_features, plain.prompt_embeds, plain.skip_reading_prefix_cache
        self.assertEqual(engine.ready(plain), (4 * TOKENS, True))

    def test_after_other_weights_what_the_engine_had_is_not_shared(self):
        engine, names = self.start(), hashes(4, b"renewed")
        engine.save_by_calls(names, 8)
        first = engine.calls
        engine.calls = native.translator(engine.scheduler, TOKENS, after=first)
        self.assertEqual(engine.calls.next_number, first.next_number)
        # One block is of the engine's own cache: what follows it may rest on older weights.
        request = Request("rests on older ones", hashes(4, b"older"))
        engine.calls.new_request(request)
        self.assertEqual(engine.calls.next_number, first.next_number + 1)
        self.assertEqual(engine.answer(request, TOKENS), (0, False))
        before = engine.scheduler.counts["blocks_committed"]
        step = output([(request.request_id, TOKENS, [0, 1, 2, 3])], tokens={request.request_id: 3 * TOKENS + 1})
        engine.play(step)
        self.assertEqual(engine.scheduler.counts["blocks_committed"], before)

    def test_a_request_that_has_left_is_kept_by_nobody(self):
        engine, names = self.start(), hashes(4, b"left")
        request = Request("leaves", names)
        is_there = weakref.ref(request)
        counts = [sys.getrefcount(one) for one in names]
        engine.calls.new_request(request)
        engine.answer(request)
        engine.calls.finished(request)
        engine.calls.finished(request)
        del request
        self.assertIsNone(is_there())
        self.assertEqual([sys.getrefcount(one) for one in names], counts)
        # And so with all that it is given: none of its objects is counted once too often or too rarely.
        step = output([("unknown", 0, [1])], [("unknown too", 5, [2])], {"unknown": 3, "unknown too": 1})
        before = sys.getrefcount(step.num_scheduled_tokens), sys.getrefcount("unknown")
        for _ in range(100):
            engine.calls.plan(step)
        self.assertEqual((sys.getrefcount(step.num_scheduled_tokens), sys.getrefcount("unknown")), before)

    def test_once_its_handle_is_to_be_closed_it_refuses_every_call(self):
        engine, names = self.start(), hashes(4, b"forgets")
        request = Request("was here", names)
        engine.calls.new_request(request)
        engine.calls.forget()
        for call in (
            lambda: engine.calls.match(request, 0),
            lambda: engine.calls.plan(output()),
            lambda: engine.calls.absorb([b""]),
            lambda: engine.calls.finished(request),
        ):
            with self.assertRaisesRegex(library.LibraryError, "there is no scheduler half"):
                call()

    def test_what_makes_no_sense_is_an_exception_and_harms_nothing(self):
        engine, names = self.start(), hashes(4, b"sense")
        calls = engine.calls
        for wrong, failure in (
            (Request("texts", ["a hash"] * 2), TypeError),
            (Request("lengths", [b"x" * 32, b"x" * 16]), ValueError),
            (Request("too short", [b"x" * 8]), library.LibraryError),
            (Request("none", None, tokens=1), TypeError),
            (object(), AttributeError),
        ):
            with self.assertRaises(failure):
                calls.new_request(wrong)
        request = Request("well", names)
        calls.new_request(request)
        for call in (
            lambda: calls.match(request),
            lambda: calls.match(request, "many"),
            lambda: calls.match(request, -1),
            lambda: calls.bind(request, object(), TOKENS),
            lambda: calls.bind(request, Blocks([-1]), TOKENS),
            lambda: calls.bind(request, Blocks([2**40]), TOKENS),
            lambda: calls.plan(object()),
            lambda: calls.plan(output([("well", 0, [0])], tokens={"other": 1})),
            lambda: calls.plan(output([("well", -1, [0])], tokens={"well": 1})),
            lambda: calls.plan(output([("well", 0, [0])], tokens={"well": -1})),
            lambda: calls.plan(output(cached=[("well", -1, [0])], tokens={"well": 1})),
            lambda: calls.absorb([b"nonsense"]),
            lambda: calls.absorb(["text"]),
            lambda: calls.absorb([b""] * 2000),
            lambda: calls.absorb(None),
            lambda: native.translator(SimpleNamespace(handle=0), TOKENS),
            lambda: native.translator(engine.scheduler, 0),
        ):
            with self.assertRaises((library.LibraryError, AttributeError, KeyError, TypeError, ValueError)):
                call()
        self.assertEqual(engine.answer(request), (0, False))
        self.assertEqual(engine.play(output([("well", 0, [0, 1, 2, 3])], tokens={"well": 64})), ([], []))


# The tests of what it inherits its node from are run once.
for name in dir(test_library.BesideANode):
    if name.startswith("test_"):
        setattr(BesideANode, name, None)

if __name__ == "__main__":
    unittest.main()
