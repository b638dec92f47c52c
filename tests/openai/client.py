"""The open door as OpenAI's own client sees it. Run by openai.test.mjs, which starts the edges."""

import http.client
import json
import os
import ssl
import threading
import time
import unittest
from urllib.parse import urlsplit

import openai

URL = os.environ["TANDEM_TEST_URL"]
TOKEN = os.environ["TANDEM_TEST_TOKEN"]
MODEL = os.environ["TANDEM_TEST_MODEL"]
CONTEXT = int(os.environ["TANDEM_TEST_CONTEXT"])
# What `tandem chat --mode edge` answers to the same messages at temperature 0.
CHAT = json.loads(os.environ["TANDEM_TEST_CHAT"])
PROMPT = os.environ["TANDEM_TEST_PROMPT"]
SYSTEM = os.environ["TANDEM_TEST_SYSTEM"]
SECURE = json.loads(os.environ["TANDEM_TEST_SECURE"])

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=TOKEN, max_retries=0, timeout=120)
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]


def ask(**more):
    """One answer; greedy unless it says otherwise."""
    wanted = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 64}
    return client.chat.completions.create(**{**wanted, **more})


def pieces(**more):
    """A streamed answer's chunks."""
    return list(ask(stream=True, **more))


def text(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def raw(method, path, body=b"", token=TOKEN, **headers):
    """Status, headers and body of a request that no client would send."""
    at = urlsplit(URL)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, response.headers, answer


def figure(name):
    """A figure of /metrics."""
    for line in raw("GET", "/metrics")[2].decode().splitlines():
        if line.startswith(f"tandem_edge_{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


class Models(unittest.TestCase):
    def test_the_model_is_listed(self):
        self.assertEqual([m.id for m in client.models.list().data], [MODEL])
        self.assertEqual(client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            client.models.retrieve("gpt-4")


class Answers(unittest.TestCase):
    def test_a_greedy_answer_is_that_of_tandem_chat(self):
        answer = ask()
        choice = answer.choices[0]
        self.assertEqual(choice.message.content, CHAT["text"])
        self.assertEqual(choice.message.role, "assistant")
        self.assertEqual(choice.finish_reason, CHAT["finish"])
        self.assertEqual(answer.usage.completion_tokens, CHAT["totals"]["tokens"])
        self.assertGreater(answer.usage.prompt_tokens, 10)
        self.assertEqual(
            answer.usage.total_tokens,
            answer.usage.prompt_tokens + answer.usage.completion_tokens,
        )
        self.assertEqual(answer.model, MODEL)
        self.assertEqual(answer.object, "chat.completion")

    def test_a_stream_brings_the_same_text_in_pieces(self):
        chunks = pieces(stream_options={"include_usage": True})
        self.assertEqual(text(chunks), CHAT["text"])
        self.assertGreater(len(chunks), 5)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(len({c.id for c in chunks}), 1)
        finish = [c.choices[0].finish_reason for c in chunks[:-1]]
        self.assertEqual(finish[-1], CHAT["finish"])
        self.assertEqual(set(finish[:-1]), {None})
        *others, last = chunks
        self.assertEqual(last.choices, [])
        self.assertEqual(last.usage.completion_tokens, CHAT["totals"]["tokens"])
        self.assertTrue(all(c.usage is None for c in others))
        # Who does not ask for it does not get it.
        self.assertTrue(all(c.usage is None for c in pieces(max_tokens=3)))

    def test_the_number_of_tokens_is_kept(self):
        for field in ["max_tokens", "max_completion_tokens"]:
            answer = ask(**{"max_tokens": openai.NOT_GIVEN, field: 5})
            self.assertEqual(answer.choices[0].finish_reason, "length")
            self.assertEqual(answer.usage.completion_tokens, 5)
            self.assertTrue(CHAT["text"].startswith(answer.choices[0].message.content))

    def test_a_stop_string_ends_the_answer_and_is_not_shown(self):
        whole = CHAT["text"]
        # From the middle of a word to the middle of another, so that no token is the stop string.
        middle = whole.index(" ", len(whole) // 3)
        stop = whole[middle - 2 : middle + 4]
        wanted = whole[: whole.index(stop)]
        answer = ask(stop=["never-there", stop])
        self.assertEqual(answer.choices[0].message.content, wanted)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertLess(answer.usage.completion_tokens, CHAT["totals"]["tokens"])
        shown = ""
        for chunk in pieces(stop=stop):
            shown += chunk.choices[0].delta.content or ""
            self.assertTrue(wanted.startswith(shown), shown)
        self.assertEqual(shown, wanted)

    def test_a_seed_makes_an_answer_repeatable(self):
        warm = {"temperature": 1.5, "top_p": 1, "max_tokens": 16, "extra_body": {"top_k": 0}}
        first, again, other = (
            ask(seed=seed, **warm).choices[0].message.content for seed in [7, 7, 8]
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_no_character_is_cut(self):
        # Each of these characters takes several tokens.
        messages = [{"role": "user", "content": "Copy this line: 🪿🫎🫏🪻🪼"}]
        whole = ask(messages=messages, max_tokens=40).choices[0].message.content
        self.assertRegex(whole, "[🪿🫎🫏🪻🪼]")
        self.assertNotIn("\ufffd", whole)
        texts = []
        for most in range(1, 17):
            chunks = pieces(messages=messages, max_tokens=most)
            for chunk in chunks:
                self.assertNotIn("\ufffd", chunk.choices[0].delta.content or "")
            texts.append(text(chunks))
            self.assertTrue(whole.startswith(texts[-1]), most)
            if texts[-1] == whole:
                break
        # Some of these ends are in the middle of a character, which is left out.
        self.assertLess(len(set(texts)), len(texts), (whole, texts))

    def test_streams_share_the_edge(self):
        counts, ends = [0, 0, 0], []

        def read(which):
            messages = [{"role": "user", "content": f"Count from {which}1 to {which}99."}]
            for _ in ask(messages=messages, max_tokens=40, stream=True):
                counts[which] += 1
            ends.append(list(counts))

        readers = [threading.Thread(target=read, args=[i]) for i in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        # When the first one ends the others have come far too.
        self.assertGreater(min(ends[0]) * 3, max(ends[0]), ends)

    def test_whoever_goes_away_costs_nothing_more(self):
        for stream in [True, False]:
            more = {"max_tokens": CONTEXT // 2, "messages": [
                {"role": "user", "content": "Write a very long story about a fox."}]}
            if stream:
                answer = ask(stream=True, **more)
                for _ in zip(range(4), answer):
                    pass
                answer.close()
            else:
                with self.assertRaises(openai.APITimeoutError):
                    client.with_options(timeout=1.5).chat.completions.create(
                        model=MODEL, temperature=0, **more
                    )
            until = time.monotonic() + 10
            while figure("running_sessions") > 0:
                self.assertLess(time.monotonic(), until, "it is still written")
                time.sleep(0.05)
            rounds = figure("rounds_total")
            time.sleep(0.5)
            self.assertEqual(figure("rounds_total"), rounds)


class Refusals(unittest.TestCase):
    def refused(self, kind, **more):
        with self.assertRaises(kind) as caught:
            ask(**more)
        return caught.exception

    def test_wrong_requests_get_their_errors(self):
        bad = openai.BadRequestError
        for kind, status, code, param, more in [
            (openai.NotFoundError, 404, "model_not_found", "model", {"model": "gpt-4"}),
            (bad, 400, None, "n", {"n": 2}),
            (bad, 400, None, "messages", {"messages": []}),
            (bad, 400, None, "stop", {"stop": ["x" * 1000]}),
            (bad, 400, None, "tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
            (bad, 400, "context_length_exceeded", "messages",
             {"messages": [{"role": "user", "content": "fox " * 2 * CONTEXT}]}),
            (openai.APIStatusError, 413, "request_too_large", None,
             {"messages": [{"role": "user", "content": "x" * (3 << 20)}]}),
        ]:
            error = self.refused(kind, **more)
            self.assertEqual((error.status_code, error.code, error.param), (status, code, param))
            # A stream that cannot begin is refused in the same way.
            error = self.refused(kind, stream=True, **more)
            self.assertEqual((error.status_code, error.code), (status, code))

    def test_without_the_token_there_is_nothing(self):
        for key in ["wrong", TOKEN + "x", TOKEN[:-1]]:
            other = openai.OpenAI(base_url=f"{URL}/v1", api_key=key, max_retries=0)
            with self.assertRaises(openai.AuthenticationError) as caught:
                other.models.list()
            self.assertEqual(caught.exception.code, "invalid_api_key")
        for method, path in [("POST", "/v1/chat/completions"), ("GET", "/v1/models")]:
            self.assertEqual(raw(method, path, token=None)[0], 401)

    def test_what_is_no_request_is_refused(self):
        for method, path, body, status, headers in [
            ("POST", "/v1/chat/completions", b"{", 400, {}),
            ("POST", "/v1/chat/completions", b"[" * 100_000, 400, {}),
            ("GET", "/v1/chat/completions", b"", 405, {}),
            ("POST", "/v1/embeddings", b"{}", 404, {}),
            ("POST", "/v1/chat/completions", b"{}", 403, {"Origin": "https://example.org"}),
        ]:
            got, kind, answer = raw(method, path, body, **headers)
            self.assertEqual(got, status, answer)
            self.assertEqual(kind["Content-Type"], "application/json")
            self.assertTrue(json.loads(answer)["error"]["message"])


class Secure(unittest.TestCase):
    def test_the_same_door_behind_tls(self):
        import httpx2 as httpx

        trusted = ssl.create_default_context(cafile=SECURE["identity"])
        # The certificate is the edge's own, not one for a name.
        trusted.check_hostname = False
        for key, good in [(TOKEN, True), ("wrong", False)]:
            secure = openai.OpenAI(
                base_url=f"{SECURE['url']}/v1",
                api_key=key,
                max_retries=0,
                http_client=httpx.Client(verify=trusted),
            )
            if not good:
                with self.assertRaises(openai.AuthenticationError):
                    secure.models.list()
                continue
            model = secure.models.list().data[0].id
            answer = secure.chat.completions.create(
                model=model, messages=MESSAGES, max_tokens=8, temperature=0
            )
            self.assertTrue(answer.choices[0].message.content)

    def test_whoever_guesses_tokens_must_wait(self):
        """Behind TLS, where addresses are strangers; the last one, as its address waits afterwards."""
        import httpx2 as httpx

        trusted = ssl.create_default_context(cafile=SECURE["identity"])
        trusted.check_hostname = False
        guesser = openai.OpenAI(
            base_url=f"{SECURE['url']}/v1",
            api_key="wrong",
            max_retries=0,
            http_client=httpx.Client(verify=trusted),
        )
        for _ in range(40):
            try:
                guesser.models.list()
            except openai.AuthenticationError:
                continue
            except openai.RateLimitError as error:
                self.assertEqual(error.code, "rate_limit_exceeded")
                self.assertEqual(error.type, "rate_limit_error")
                self.assertIn("too many wrong tokens", error.message)
                self.assertGreater(int(error.response.headers["Retry-After"]), 0)
                return
        self.fail("nobody is told to wait")


if __name__ == "__main__":
    unittest.main(verbosity=2)
