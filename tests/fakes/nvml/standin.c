/* A stand-in for libnvidia-ml.so.1: every NVML function that agent/gpu/nvml.py calls, answered from a control file.

   The file is named by STOKER_TEST_NVML and read again when it changes (looked at every 20 ms), so a test drives a
   running sampler. One statement a line; later lines win:

       gpus 8                                    at the next nvmlInit
       driver 550.54.15
       name gpu=2 any bytes to the end of the line
       value gpu=* power_mw=250000               keys: util power_mw limit_mw temp sm_mhz mem_mhz total used
       process gpu=0 pid=4711 memory=1073741824
       hang FUNCTION|* gpu=3                     until the line is gone
       fail FUNCTION|* gpu=* code=15             an nvmlReturn_t

   gpu=* is every GPU, and the functions that concern none. -DOLD_DRIVER leaves out what old libraries do not have. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };
enum { GPUS_MAX = 16, RULES_MAX = 64, PROCESSES_MAX = 256, ANY = -1, HANG = -1 };
#define LOOK_AGAIN_NS 20000000L

typedef int nvmlReturn_t;
typedef struct device { int index; } *nvmlDevice_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute_instance; } nvmlProcessInfo_t;

enum key { UTIL, POWER_MW, LIMIT_MW, TEMP, SM_MHZ, MEM_MHZ, TOTAL, USED, KEYS };
static const char *const KEY_NAMES[KEYS] = {"util", "power_mw", "limit_mw", "temp", "sm_mhz", "mem_mhz", "total", "used"};

struct rule { char function[64]; int gpu, code; };
struct process { int gpu; unsigned pid; unsigned long long memory; };
struct control {
    int gpus;
    char driver[80];
    char names[GPUS_MAX][256];
    unsigned long long values[GPUS_MAX][KEYS];
    struct rule rules[RULES_MAX];
    int rule_count;
    struct process processes[PROCESSES_MAX];
    int process_count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control control;
static struct timespec looked_at;
static struct stat seen;
static int references, opened_gpus;
static struct device devices[GPUS_MAX];

/* --- control file --- */

static void set_defaults(void) {
    memset(&control, 0, sizeof control);
    control.gpus = 1;
    strcpy(control.driver, "550.54.15");
    for (int i = 0; i < GPUS_MAX; i++) {
        strcpy(control.names[i], "NVIDIA H100 80GB HBM3");
        unsigned long long defaults[KEYS] = {10 + i, 100000 + 1000 * i, 700000, 40 + i, 1500, 2619, 80ULL << 30, (1ULL + i) << 30};
        memcpy(control.values[i], defaults, sizeof defaults);
    }
}

static int gpu_of(const char *text) { return strcmp(text, "*") == 0 ? ANY : atoi(text); }

static void set_value(const char *gpu_text, const char *pair) {
    const char *equals = strchr(pair, '=');
    int gpu = gpu_of(gpu_text);
    for (int key = 0; equals && key < KEYS; key++)
        if (strlen(KEY_NAMES[key]) == (size_t)(equals - pair) && strncmp(pair, KEY_NAMES[key], equals - pair) == 0)
            for (int i = 0; i < GPUS_MAX; i++)
                if (gpu == ANY || gpu == i) control.values[i][key] = strtoull(equals + 1, NULL, 10);
}

static void take_line(char *line) {
    char gpu[16], word[64];
    int code, taken = 0;
    unsigned pid;
    unsigned long long memory;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "gpus %d", &code) == 1) control.gpus = code > GPUS_MAX ? GPUS_MAX : code;
    else if (sscanf(line, "driver %79s", control.driver) == 1) return;
    else if (sscanf(line, "name gpu=%d %n", &code, &taken) == 1 && taken && code >= 0 && code < GPUS_MAX)
        strncpy(control.names[code], line + taken, sizeof control.names[code] - 1);
    else if (sscanf(line, "value gpu=%15s %n", gpu, &taken) == 1 && taken)
        for (char *pair = strtok(line + taken, " "); pair; pair = strtok(NULL, " ")) set_value(gpu, pair);
    else if (sscanf(line, "process gpu=%d pid=%u memory=%llu", &code, &pid, &memory) == 3 && control.process_count < PROCESSES_MAX)
        control.processes[control.process_count++] = (struct process){code, pid, memory};
    else if (control.rule_count < RULES_MAX) {
        struct rule *rule = &control.rules[control.rule_count];
        if (sscanf(line, "hang %63s gpu=%15s", word, gpu) == 2) code = HANG;
        else if (sscanf(line, "fail %63s gpu=%15s code=%d", word, gpu, &code) != 3) return;
        strcpy(rule->function, word);
        rule->gpu = gpu_of(gpu);
        rule->code = code;
        control.rule_count++;
    }
}

static void look_again(void) {
    struct timespec now;
    struct stat found;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long passed = (now.tv_sec - looked_at.tv_sec) * 1000000000L + now.tv_nsec - looked_at.tv_nsec;
    if (looked_at.tv_sec && passed < LOOK_AGAIN_NS) return;
    looked_at = now;
    const char *path = getenv("STOKER_TEST_NVML");
    if (!path || stat(path, &found) != 0) { if (!control.gpus) set_defaults(); return; }
    if (found.st_ino == seen.st_ino && found.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && found.st_mtim.tv_sec == seen.st_mtim.tv_sec) return;
    seen = found;
    set_defaults();
    FILE *file = fopen(path, "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) take_line(line);
    if (file) fclose(file);
}

/* For a test in the same process: the next call looks at the file at once. */
void standin_obey_now(void) {
    pthread_mutex_lock(&lock);
    looked_at.tv_sec = 0;
    memset(&seen, 0, sizeof seen);
    pthread_mutex_unlock(&lock);
}

/* What the control file orders for this call: a code, SUCCESS, or HANG. The caller holds the lock. */
static int order(const char *function, int gpu) {
    for (int i = control.rule_count - 1; i >= 0; i--) {
        const struct rule *rule = &control.rules[i];
        if ((rule->gpu == ANY || rule->gpu == gpu) && (rule->function[0] == '*' || strcmp(rule->function, function) == 0))
            return rule->code;
    }
    return SUCCESS;
}

/* Begin a call: obey the control file. On SUCCESS the lock is held, and the caller ends with leave(). */
static int enter(const char *function, int gpu) {
    for (;;) {
        pthread_mutex_lock(&lock);
        look_again();
        int code = order(function, gpu);
        if (code == SUCCESS) return SUCCESS;
        pthread_mutex_unlock(&lock);
        if (code != HANG) return code;
        usleep(20000);
    }
}

static int leave(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

#define ENTER(gpu) do { int code_ = enter(__func__, gpu); if (code_) return code_; \
    if (!references) return leave(UNINITIALIZED); } while (0)

/* --- the library --- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = enter(__func__, ANY);
    if (code) return code;
    references++;
    opened_gpus = control.gpus;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlShutdown(void) {
    ENTER(ANY);
    references--;
    return leave(SUCCESS);
}

const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 999: return "Unknown Error";
    default: return "Some Error";
    }
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(ANY);
    *count = opened_gpus;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    ENTER((int)index);
    if ((int)index >= opened_gpus) return leave(INVALID_ARGUMENT);
    devices[index].index = index;
    *device = &devices[index];
    return leave(SUCCESS);
}

static int text(char *out, unsigned length, const char *value) {
    if (strlen(value) + 1 > length) return leave(INSUFFICIENT_SIZE);
    strcpy(out, value);
    return leave(SUCCESS);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned length) {
    ENTER(ANY);
    return text(out, length, control.driver);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    return text(out, length, control.names[device->index]);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned length) {
    ENTER(device->index);
    char uuid[64];
    snprintf(uuid, sizeof uuid, "GPU-00000000-0000-4000-8000-%012d", device->index);
    return text(out, length, uuid);
}

#define NUMBER(function, key) \
    nvmlReturn_t function(nvmlDevice_t device, unsigned *out) { \
        ENTER(device->index); \
        *out = control.values[device->index][key]; \
        return leave(SUCCESS); \
    }
NUMBER(nvmlDeviceGetPowerUsage, POWER_MW)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, LIMIT_MW)

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *out) {
    ENTER(device->index);
    if (sensor != 0) return leave(INVALID_ARGUMENT);
    *out = control.values[device->index][TEMP];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int clock, unsigned *out) {
    ENTER(device->index);
    if (clock != 1 && clock != 2) return leave(INVALID_ARGUMENT);
    *out = control.values[device->index][clock == 1 ? SM_MHZ : MEM_MHZ];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    ENTER(device->index);
    out->gpu = control.values[device->index][UTIL];
    out->memory = 0;
    return leave(SUCCESS);
}

static int processes(int gpu, unsigned *count, nvmlProcessInfo_t *out) {
    unsigned capacity = *count, found = 0;
    for (int i = 0; i < control.process_count; i++)
        if (control.processes[i].gpu == gpu && found++ < capacity && out)
            out[found - 1] = (nvmlProcessInfo_t){control.processes[i].pid, control.processes[i].memory, ~0u, ~0u};
    *count = found;
    return leave(found > capacity ? INSUFFICIENT_SIZE : SUCCESS);
}

#ifdef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, unsigned long long out[3]) {
    ENTER(device->index);
    out[0] = control.values[device->index][TOTAL];
    out[2] = control.values[device->index][USED];
    out[1] = out[0] - out[2];
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    return processes(device->index, count, out);
}
#else
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    ENTER(device->index);
    if (out->version != (sizeof *out | 2u << 24)) return leave(25);
    out->total = control.values[device->index][TOTAL];
    out->used = control.values[device->index][USED];
    out->reserved = 0;
    out->free = out->total - out->used;
    return leave(SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out) {
    ENTER(device->index);
    return processes(device->index, count, out);
}
#endif
