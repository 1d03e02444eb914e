# A CPU image:   docker build -t modiff .
# With CUDA:     docker build -t modiff --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# The README's commands, in the folder of your data; --user makes the files yours:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" modiff demo --quick -o demo
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" modiff sample lidc data/case-1/image.png --at 64,64 -n 16 -o out/case-1
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" modiff train --data lidc.h5 --preset lidc -o runs/lidc
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/modiff
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# torch of the constraints' version from its own index, which the second line then finds installed.
RUN pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" \
        --extra-index-url https://pypi.org/simple torch \
    && pip install --no-cache-dir --constraint constraints.txt .
# Any user may run it: matplotlib and others write below HOME.
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["modiff"]
CMD ["--help"]
