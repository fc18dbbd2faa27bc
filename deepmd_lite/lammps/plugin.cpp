// What LAMMPS' command `plugin load` calls, and what it does with LAMMPS_PLUGIN_PATH.
#include <cstdio>

#include "lammps.h"
#include "library.h"
#include "pair_deepmd_lite.h"

using namespace LAMMPS_NS;

namespace {

// As in LAMMPS' lammpsplugin.h, which installations of it leave out.
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void* (*creator)(void*);
  void* handle;
};
using Register = void (*)(Plugin*, void*);

void* create(void* lmp) { return new PairDeepmdLite(static_cast<LAMMPS*>(lmp)); }

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* handle, void* dso,
                                                                         void* registration) {
  // a class of another layout would crash, or worse: here the C interface alone is used
  if (lammps_version(handle) != DPL_LAMMPS_VERSION ||
      lammps_extract_setting(handle, "bigint") != int(sizeof(bigint)) ||
      lammps_extract_setting(handle, "tagint") != int(sizeof(tagint))) {
    if (lammps_extract_setting(handle, "world_rank") == 0)
      std::fprintf(stderr,
                   "WARNING: deepmd_lite was built for LAMMPS %d with other settings than this "
                   "one, %d; build it again: dpl lammps --headers FOLDER\n",
                   DPL_LAMMPS_VERSION, lammps_version(handle));
    return;
  }
  Plugin plugin{static_cast<LAMMPS*>(handle)->version,
                "pair",
                "deepmd_lite",
                "Deep Potential models (.dpl)",
                "deepmd_lite",
                create,
                dso};
  reinterpret_cast<Register>(registration)(&plugin, handle);
}
