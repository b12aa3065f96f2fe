/* What nvitop and gpustat ask of the library and our reader does not; only with -DPEERS, at the end of standin.c. */

#define PLAIN(function, answer) \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *out) { \
        ENTER(device->index); \
        *out = answer; \
        return leave(SUCCESS); \
    }
PLAIN(nvmlDeviceGetIndex, device->index)
PLAIN(nvmlDeviceGetPowerManagementLimit, control.values[device->index][LIMIT_MW])
PLAIN(nvmlDeviceGetDisplayActive, 0)
PLAIN(nvmlDeviceGetDisplayMode, 0)
PLAIN(nvmlDeviceGetPersistenceMode, 1)
PLAIN(nvmlDeviceGetComputeMode, 0)
PLAIN(nvmlDeviceGetMultiGpuBoard, 0)

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned counter, unsigned *out) {
    ENTER(device->index);
    *out = 1000 + counter;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    ENTER(device->index);
    *major = 9;
    *minor = 0;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *out) {
    ENTER(device->index);
    *out = device->slot != WHOLE;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out) {
    ENTER(ANY);
    *out = 12040;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, unsigned long long out[3]) {
    ENTER(device->index);
    out[0] = control.values[device->index][TOTAL];
    out[2] = control.values[device->index][USED];
    out[1] = out[0] - out[2];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetDriverModel(nvmlDevice_t device, unsigned *now, unsigned *pending) {
    ENTER(device->index);
    (void)now, (void)pending;
    return leave(NOT_SUPPORTED);
}
