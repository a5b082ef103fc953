// A CUDA module whose interface is not the program's.
extern "C" __attribute__((visibility("default"))) const char* t2r_cuda_interface() {
  return "0123456789abcdef";
}
