# The server and the client command on Debian 12: for the CPU, and (target `cuda`) for NVIDIA devices.
#   docker build -t t2r .
#   docker run --rm -p 50051:50051 -p 9100:9100 t2r
#   docker run --rm -p 50051:50051 -v "$PWD/my-model:/model:ro" t2r --model /model --max-sessions 64
#   docker build --target cuda -t t2r-cuda .
#   docker run --rm --gpus all -p 50051:50051 -v "$PWD/my-model:/model:ro" t2r-cuda --model /model
# Nothing is encrypted (--insecure) unless --tls-cert and --tls-key are among the arguments: publish the ports
# where that is right. Arguments are added to the addresses, in place of the default model; SIGTERM drains, so
# give `docker stop -t` more than --drain-delay and --drain-seconds together.
#
# nvcc and libcublasLt of the CUDA image come from NVIDIA's image below, or from an installed toolkit:
#   docker build --target cuda --build-context cuda-toolkit=/usr/local/cuda-13.0 -t t2r-cuda .
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04
FROM ${CUDA_IMAGE} AS cuda-image
FROM scratch AS cuda-toolkit
COPY --from=cuda-image /usr/local/cuda-13.0 /

FROM debian:12-slim AS build
WORKDIR /src
COPY scripts/setup scripts/setup
RUN scripts/setup --no-train && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DT2R_CONVERT=OFF -DT2R_TESTS=OFF \
 && cmake --build --preset release --target t2r-server t2r \
 && strip build/release/t2r-server build/release/t2r

FROM build AS build-cuda
COPY --from=cuda-toolkit / /usr/local/cuda
RUN cmake --preset cuda -DT2R_CONVERT=OFF -DT2R_TESTS=OFF \
 && cmake --build --preset cuda --target t2r_cuda \
 && strip build/cuda/libt2r_cuda.so \
 && cp -L /usr/local/cuda/lib64/libcublasLt.so.13 build/cuda/

# libsentencepiece0 is loaded on demand, so that ldd does not show it.
FROM debian:12-slim AS runtime
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      ca-certificates libabsl20220623 libgrpc++1.51 libhwy1 libpcre2-8-0 libprometheus-cpp-core1.0 libutf8proc2 \
      libprotobuf32 libhiredis0.14 librocksdb7.8 libsentencepiece0 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 t2r \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin t2r
COPY --from=build /src/build/release/t2r-server /src/build/release/t2r /usr/local/bin/
COPY --from=build /src/models/demo /models/demo
# In numbers: Kubernetes' runAsNonRoot cannot tell what a name means.
USER 10001:10001
EXPOSE 50051 9100
STOPSIGNAL SIGTERM
# A large model takes a while to load: raise --start-period for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["t2r", "health", "--server", "127.0.0.1:50051", "--timeout", "3"]
ENTRYPOINT ["t2r-server", "--listen", "0.0.0.0:50051", "--admin", "0.0.0.0:9100", "--insecure"]
CMD ["--model", "/models/demo"]

# The driver's libcuda is the host's: its container runtime mounts it.
FROM runtime AS cuda
USER root
COPY --from=build-cuda /src/build/cuda/libcublasLt.so.13 /usr/local/lib/
COPY --from=build-cuda /src/build/cuda/libt2r_cuda.so /usr/local/bin/
RUN ldconfig
USER 10001:10001
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["t2r-server", "--listen", "0.0.0.0:50051", "--admin", "0.0.0.0:9100", "--insecure", "--backend", "cuda"]

# Without a target: the CPU's.
FROM runtime
