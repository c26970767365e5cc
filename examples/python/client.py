"""Stream a completion from llorch-cpud; show a cancellation and a deadline.

    python client.py [--target HOST:PORT] [--mode stream|cancel|deadline] [PROMPT]
"""

import argparse
import asyncio
import sys

import grpc

from llorch.v1 import inference_pb2, inference_pb2_grpc


def request(prompt: str, max_tokens: int) -> inference_pb2.GenerateRequest:
    """A greedy completion: temperature 0 takes the most likely token."""
    return inference_pb2.GenerateRequest(
        text=prompt,
        sampling=inference_pb2.SamplingParams(temperature=0),
        stopping=inference_pb2.StoppingOptions(max_tokens=max_tokens),
    )


async def stream(stub, prompt: str, max_tokens: int) -> None:
    """Print text as it comes."""
    async for response in stub.Generate(request(prompt, max_tokens)):
        match response.WhichOneof("event"):
            case "delta":
                print(response.delta.text, end="", flush=True)
            case "finished":
                finished = response.finished
                reason = inference_pb2.FinishReason.Name(finished.reason)
                print(f"\n[{reason}, {finished.usage.completion_tokens} tokens]")


async def cancel(stub, prompt: str, max_tokens: int) -> None:
    """Stop after the third delta. The server frees the sequence within one step."""
    long = request(prompt, max_tokens)
    long.stopping.ignore_eos = True
    call = stub.Generate(long)
    deltas = 0
    async for response in call:
        if response.WhichOneof("event") == "delta":
            print(response.delta.text, end="", flush=True)
            deltas += 1
            if deltas == 3:
                call.cancel()
                break
    print(f"\n[{(await call.code()).name} after {deltas} deltas]")


async def deadline(stub, prompt: str, seconds: float) -> None:
    """Ask for more than the time allows. The deadline holds for the whole stream."""
    long = request(prompt, 100_000)
    long.stopping.ignore_eos = True
    try:
        async for response in stub.Generate(long, timeout=seconds):
            if response.WhichOneof("event") == "delta":
                print(response.delta.text, end="", flush=True)
    except grpc.aio.AioRpcError as error:
        print(f"\n[{error.code().name}]")


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--target", default="127.0.0.1:50051")
    parser.add_argument("--mode", choices=["stream", "cancel", "deadline"], default="stream")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=0.05, help="seconds, for --mode deadline")
    args = parser.parse_args()
    async with grpc.aio.insecure_channel(args.target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        try:
            if args.mode == "stream":
                await stream(stub, args.prompt, args.max_tokens)
            elif args.mode == "cancel":
                await cancel(stub, args.prompt, args.max_tokens)
            else:
                await deadline(stub, args.prompt, args.timeout)
        except grpc.aio.AioRpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
