# The variants of the image:
#
#   docker buildx bake                     all of them
#   docker buildx bake cu130 --push        one, and to the registry of IMAGE
#   TORCH_CUDA_ARCH_LIST=8.6 docker buildx bake cu130

variable "IMAGE" { default = "ghcr.io/alexchesser/xformers-devcontainer" }
variable "TORCH_CUDA_ARCH_LIST" { default = "" }
variable "XFORMERS_FIRST_BUILD_URL" { default = "https://github.com/facebookresearch/xformers.git" }
variable "BASE_IMAGE" { default = "" }

group "default" { targets = ["cu130", "cu128", "cpu"] }

target "common" {
  dockerfile = ".devcontainer/Dockerfile"
  secret     = ["id=ca,env=XFDEV_BUILD_CA", "id=pip,env=XFDEV_BUILD_PIP_CONF", "id=apt,env=XFDEV_BUILD_APT"]
  # The cache goes with the image: whoever has its name needs no other.
  cache-to = ["type=inline"]
  output   = ["type=image,compression=zstd,oci-mediatypes=true"]
  args = {
    BASE_IMAGE               = BASE_IMAGE != "" ? BASE_IMAGE : null
    XFDEV                    = "."
    TORCH_CUDA_ARCH_LIST     = TORCH_CUDA_ARCH_LIST
    XFORMERS_FIRST_BUILD_URL = XFORMERS_FIRST_BUILD_URL
  }
}

# Kernels compile.
target "cu130" {
  inherits   = ["common"]
  tags       = ["${IMAGE}:cu130", "${IMAGE}:latest"]
  cache-from = ["${IMAGE}:cu130"]
  args       = { TOOLCHAIN = "cu130" }
}

# Links what official wheels bring. To compile, give a base image that has CUDA 12's nvcc:
#   BASE_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu24.04 docker buildx bake cu128
target "cu128" {
  inherits   = ["common"]
  tags       = ["${IMAGE}:cu128"]
  cache-from = ["${IMAGE}:cu128"]
  args       = { TOOLCHAIN = "cu128", TORCH_CUDA_ARCH_LIST = "" }
}

target "cpu" {
  inherits   = ["common"]
  tags       = ["${IMAGE}:cpu"]
  cache-from = ["${IMAGE}:cpu"]
  args       = { GPU = "false" }
}
