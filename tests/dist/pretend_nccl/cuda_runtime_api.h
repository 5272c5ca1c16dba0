/* What src/dist/comm_nccl_cuda.c needs of CUDA, of a GPU that is host memory and whose streams never run late. */
#pragma once

typedef void *cudaStream_t;
typedef void *cudaEvent_t;
typedef enum { cudaSuccess, cudaErrorNotReady } cudaError_t;
enum { cudaEventDisableTiming };

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaGetDevice(int *gpu);
cudaError_t cudaSetDevice(int gpu);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
