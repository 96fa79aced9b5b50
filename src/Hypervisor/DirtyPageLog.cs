using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>What the vCPUs write to, which the engine knows, and what devices write to.</summary>
internal sealed class DirtyPageLog(IDirtyPageLog cpus, GuestMemory memory) : IDirtyPageLog
{
    public void Enable(bool on)
    {
        cpus.Enable(on);
        memory.DeviceWrites.Enable(on);
    }

    public ulong[] Take(int region)
    {
        ulong[] pages = cpus.Take(region), devices = memory.DeviceWrites.Take(memory.Regions[region]);
        for (int n = 0; n < pages.Length; n++) pages[n] |= devices[n];
        return pages;
    }
}
