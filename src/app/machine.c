#define _GNU_SOURCE /* sched_getaffinity */
#include "app/machine.h"

#include <assimp/version.h>
#include <hdf5.h>
#include <jansson.h>
#include <mpi.h>
#include <omp.h>
#include <rtcore.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static void cpu_name(char *out, size_t cap) {
    char  line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, cap, "unknown processor");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon || strlen(colon) < 3) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, cap, "%s", colon + 2);
        break;
    }
    if (f) fclose(f);
}

machine machine_look(void) {
    machine        m = {0};
    struct utsname u;
    cpu_set_t      set;
    cpu_name(m.cpu, sizeof m.cpu);
    gethostname(m.host, sizeof m.host - 1);
    if (uname(&u) == 0) snprintf(m.system, sizeof m.system, "%.20s %.60s %.20s", u.sysname, u.release, u.machine);
    CPU_ZERO(&set);
    m.cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    m.threads = omp_get_max_threads();
    m.memory_mb = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) >> 20;
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "MPI";
    int  n = 0;
    MPI_Get_library_version(mpi, &n); /* allowed before MPI_Init */
    mpi[strcspn(mpi, ",\n")] = 0;
    snprintf(m.libraries, sizeof m.libraries, "HDF5 %d.%d.%d, %.60s, Embree %s, Assimp %u.%u.%u, jansson %s",
             H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE, mpi, RTC_VERSION_STRING, aiGetVersionMajor(),
             aiGetVersionMinor(), aiGetVersionPatch(), JANSSON_VERSION);
    return m;
}
