#include "app/verbs.h"

int main(int argc, char **argv) {
    comm world;
    comm_start(&world, &argc, &argv);
    int code = app_main(&world, argc, argv);
    comm_finish(&world);
    return code;
}
