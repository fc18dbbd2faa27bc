// What LAMMPS' command `plugin load` calls, and what it does with LAMMPS_PLUGIN_PATH.
#include "comm.h"
#include "error.h"
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
  auto* const lmp = static_cast<LAMMPS*>(handle);
  // a class of another layout would crash, or worse
  if (lammps_version(handle) != DPL_LAMMPS_VERSION ||
      lammps_extract_setting(handle, "bigint") != int(sizeof(bigint)) ||
      lammps_extract_setting(handle, "tagint") != int(sizeof(tagint))) {
    if (lmp->comm->me == 0)
      lmp->error->warning(FLERR,
                          "deepmd_lite was built for LAMMPS {} with other settings than "
                          "this one, {}; build it again: dpl lammps --headers FOLDER",
                          DPL_LAMMPS_VERSION, lammps_version(handle));
    return;
  }
  Plugin plugin{lmp->version, "pair", "deepmd_lite", "Deep Potential models (.dpl)", "deepmd_lite",
                create,       dso};
  reinterpret_cast<Register>(registration)(&plugin, handle);
}
