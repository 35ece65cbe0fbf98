"""Ten prefixes with tails of their own, dealt by a stock nginx to two servers."""

import random
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

from processes import Process, until

CONFIGURATION = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
daemon off;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/nginx-access.log;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  upstream servers {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://servers; proxy_buffering off; proxy_read_timeout 300s; }}
  }}
}}
"""


class Nginx(Process):
    """Round-robin over servers."""

    def __init__(self, port, servers, folder):
        path = folder / "nginx.conf"
        lines = " ".join(f"server 127.0.0.1:{server.port};" for server in servers)
        path.write_text(CONFIGURATION.format(folder=folder, port=port, servers=lines))
        self.url = f"http://127.0.0.1:{port}"
        super().__init__("nginx", ["/usr/sbin/nginx", "-c", path], folder)
        probe = ["curl", "-s", "-o", "/dev/null", f"{self.url}/health"]
        until(10, "nginx listens", lambda: subprocess.run(probe).returncode == 0)


def play(url, prompts, tokens, concurrency, seed):
    """The prompts in a seeded order. (time to first token of each, seconds in all)"""
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(prompt):
        began = time.monotonic()
        stream = client.completions.create(
            model="smollm2", prompt=prompt, max_tokens=tokens, temperature=0, stream=True,
            timeout=300, extra_body={"ignore_eos": True},
        )
        first, text = None, ""
        for chunk in stream:
            if chunk.choices:
                first = first or time.monotonic() - began
                text += chunk.choices[0].text
        return first, text

    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    began = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = dict(zip(order, pool.map(lambda place: ask(prompts[place]), order)))
    elapsed = time.monotonic() - began
    return [answers[place] for place in range(len(prompts))], elapsed


def summary(answers):
    times = sorted(first for first, _ in answers)
    return {
        "ttft_p50_s": round(statistics.median(times), 3),
        "ttft_p95_s": round(times[int(len(times) * 0.95) - 1], 3),
    }
