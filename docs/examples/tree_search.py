#!/usr/bin/env python3
"""Searches for a likely continuation with forks of a session: sampled beams.

    PYTHONPATH=build/release/python docs/examples/tree_search.py "In the beginning"

The prompt is run once. At each level every kept branch is forked, each fork goes on for some tokens with a
seed of its own, and those with the highest mean log probability are kept. A fork copies a state of fixed size
and runs nothing, so what a level costs is the tokens that it tries, however long the text is by then.

Needs python3-grpcio and the stubs of the API, which every build writes into its folder python/
(docs/client.md).
"""

import argparse
import concurrent.futures
import dataclasses
import sys
import uuid

import grpc

from t2r.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc


@dataclasses.dataclass
class Branch:
    session: str
    text: str
    logprob: float  # of all its generated tokens together
    tokens: int

    def score(self):
        return self.logprob / self.tokens


class Search:
    """Branches of one prompt at one server."""

    def __init__(self, channel, temperature, seed):
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.sessions = sessions_pb2_grpc.SessionsStub(channel)
        self.temperature, self.seed = temperature, seed
        self.tried = 0
        self.forked = 0

    def turn(self, before, session, tokens, prompt=""):
        """`before` after `tokens` more, in `session`, which stands where it stood."""
        request = generation_pb2.GenerateRequest(text=prompt, max_tokens=tokens, logprobs=1)
        request.session.id = session
        request.session.create = before is None
        request.sampling.temperature = self.temperature
        # Draws depend on seed and position alone: forks with one seed would all say the same.
        self.tried += 1
        request.sampling.seed = self.seed + self.tried
        return before, session, self.generation.Generate(request)

    @staticmethod
    def take(before, session, call):
        text, logprob, tokens = "", 0.0, 0
        for event in call:
            text += event.delta.text
            logprob += sum(entry.chosen.logprob for entry in event.delta.logprobs)
            tokens += len(event.delta.token_ids)
        if before is None:
            return Branch(session, text, logprob, tokens)
        return Branch(session, before.text + text, before.logprob + logprob, before.tokens + tokens)

    def fork(self, branch, count):
        reply = self.sessions.ForkSession(
            sessions_pb2.ForkSessionRequest(id=branch.session, count=count))
        self.forked += count
        return [(branch, session.id) for session in reply.sessions]

    def delete(self, branch):
        self.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(id=branch.session))

    def run(self, prompt, width, keep, depth, tokens):
        """The kept branches, best first."""
        kept = [self.take(*self.turn(None, f"tree-{uuid.uuid4()}", 1, prompt))]
        with concurrent.futures.ThreadPoolExecutor(width) as readers:
            for _ in range(depth):
                forks = [fork for branch in kept for fork in self.fork(branch, width // len(kept))]
                calls = [self.turn(branch, session, tokens) for branch, session in forks]
                grown = list(readers.map(lambda call: self.take(*call), calls))
                grown.sort(key=Branch.score, reverse=True)
                for branch in kept + grown[keep:]:
                    self.delete(branch)
                kept = grown[:keep]
        return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--width", type=int, default=16, help="branches tried at each level")
    parser.add_argument("--keep", type=int, default=4, help="of these, the ones that go on")
    parser.add_argument("--depth", type=int, default=4, help="levels")
    parser.add_argument("--tokens", type=int, default=12, help="of each branch at each level")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not 1 <= arguments.keep <= arguments.width:
        parser.error("--keep: must be 1 to --width")
    with grpc.insecure_channel(arguments.server) as channel:
        search = Search(channel, arguments.temperature, arguments.seed)
        kept = search.run(arguments.prompt, arguments.width, arguments.keep, arguments.depth,
                          arguments.tokens)
        for branch in kept:
            print(f"{branch.score():.3f}\t{arguments.prompt}{branch.text}")
            search.delete(branch)
    print(f"{search.forked} forks, {search.tried} turns", file=sys.stderr)


if __name__ == "__main__":
    main()
