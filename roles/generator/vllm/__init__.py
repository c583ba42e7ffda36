"""The vLLM engine: vLLM's AsyncLLM inside the generator, with realnet's versions.

Only the files in here import vllm, and only when they run: `environment` says how vLLM is to run
before it is imported, `model` gives it a model's folder and refuses what it cannot run, `sampling`
what it draws by, `engine` is `AsyncLLM` as an `Engine`, `core` is `LLMEngine` as a `Core`. `plugin`
and `transfer` run inside vLLM's own processes.
"""
