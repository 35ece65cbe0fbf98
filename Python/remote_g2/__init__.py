"""What engines written in Python load of remote-g2. `remote_g2.vllm` is the connector for vLLM."""
