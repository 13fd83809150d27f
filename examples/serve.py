"""Start a Triton server on this machine, send it a video, stop it.

python examples/serve.py ENGINES VIDEO OUT
"""

import subprocess
import sys


def main(engines: str, video: str, out: str, port: str = "8001") -> None:
    ovavss = [sys.executable, "-m", "ovavss"]
    ports = ["--port", port, "--http-port", str(int(port) + 1), "--metrics-port", str(int(port) + 2)]
    serve = [*ovavss, "serve", "--engines", engines, *ports]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            print(server.stdout.readline().strip())  # comes when the models are loaded
            url = f"grpc://localhost:{port}"
            subprocess.run([*ovavss, "segment", video, "--url", url, "--out", out], check=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
