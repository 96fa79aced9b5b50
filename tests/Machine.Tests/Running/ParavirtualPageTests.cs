using Bunraku.Engines;
using Bunraku.Hypervisor.X86.Paravirtual;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests.Running;

/// <summary>
/// What the hypervisor writes into guest memory for the paravirtual interface is a device's write: it is told before to who watches the page, and is in the log
/// behind.
/// </summary>
public sealed class ParavirtualPageTests : IDisposable
{
    private const ulong WallClock = 0x10_0000, Clock = 0x10_1000, Steal = 0x10_2000, Eoi = 0x10_3000, Pairing = 0x10_4000;

    private static readonly CpuModel s_model =
        IdleEngine.Model with { Features = new HashSet<CpuFeature>(IdleEngine.Model.Features) { CpuFeature.Hypervisor } };

    private readonly X86Machine _vm = new(new IdleEngine(), s_model, 4 << 20);
    private readonly List<ulong> _refused = [];

    public ParavirtualPageTests()
    {
        _vm.Memory.Rights.Set(WallClock, 5 * GuestMemory.PageSize, PageRights.Read);
        _vm.Memory.Rights.DeviceWriteRefused = _refused.Add;
        _vm.Memory.DeviceWrites.Enable(true);
    }

    public void Dispose() => _vm.Dispose();

    /// <summary>The pages that were told, and that they are in the log.</summary>
    private ulong[] Told()
    {
        ulong[] told = [.. _refused.Distinct()];
        _refused.Clear();
        ulong[] log = _vm.Memory.DeviceWrites.Take(_vm.Memory.Regions[0]);
        Assert.Equal(told, Enumerable.Range(0, log.Length * 64).Where(n => (log[n / 64] >> n % 64 & 1) != 0).Select(n => (ulong)n << GuestMemory.PageShift));
        return told;
    }

    private void Write(uint msr, ulong value) => Assert.True(_vm.Msrs.TryWrite(0, msr, value));

    [Fact]
    public void WallClockAndClockPairing()
    {
        Write(KvmMsr.WallClock, WallClock);
        Assert.Equal([WallClock], Told());
        Assert.Equal(0ul, _vm.Paravirtual!.Call(0,
            new HypercallArguments((ulong)HypercallNumber.ClockPairing, Pairing, ClockPairing.WallClock, 0, 0, 0, true)));
        Assert.Equal([Pairing], Told());
    }

    [Fact]
    public void ClockAndStealTime()
    {
        ParavirtualCpu cpu = _vm.Cpus[0].Paravirtual!;
        Write(KvmMsr.SystemTime, Clock | KvmMsr.Enable);
        cpu.BeforeEntry();
        Assert.Equal([Clock], Told());
        if (!_vm.Paravirtual!.Has(KvmFeatures.StealTime)) // this host keeps no such accounts
        {
            Assert.False(_vm.Msrs.TryWrite(0, KvmMsr.StealTime, Steal | KvmMsr.Enable));
            return;
        }
        Write(KvmMsr.StealTime, Steal | KvmMsr.Enable);
        cpu.BeforeEntry();
        Assert.Equal([Steal], Told());
        cpu.Leave();
        Assert.Equal([Steal], Told());
    }

    /// <summary>Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: "guest vcpu has been paused by the host".</summary>
    [Fact]
    public void AStopIsToldOnceAndOnlyToPagesThatWereThere()
    {
        ParavirtualCpu cpu = _vm.Cpus[0].Paravirtual!;
        byte Flags()
        {
            cpu.BeforeEntry();
            Assert.True(_vm.Memory.TryRead(Clock + 29, out byte flags));
            return flags;
        }
        _vm.Paravirtual!.NoteStopped();
        Write(KvmMsr.SystemTime, Clock | KvmMsr.Enable);
        Assert.Equal(ClockPage.TscStable, Flags());
        _vm.Paravirtual.NoteStopped();
        Assert.Equal(ClockPage.TscStable | ClockPage.GuestStopped, Flags());
        Assert.True(_vm.Memory.TryWrite(Clock + 29, ClockPage.TscStable)); // the guest has taken note
        Assert.Equal(ClockPage.TscStable, Flags());
        _vm.Paravirtual.NoteStopped();
        Write(KvmMsr.SystemTime, 0);
        Write(KvmMsr.SystemTime, Clock | KvmMsr.Enable);
        Assert.Equal(ClockPage.TscStable, Flags());
    }

    [Fact]
    public void EndOfInterruptFlag()
    {
        ParavirtualCpu cpu = _vm.Cpus[0].Paravirtual!;
        _vm.Cpus[0].Interrupts = new InService();
        Write(KvmMsr.PvEoi, Eoi | KvmMsr.Enable);
        cpu.BeforeEntry();
        Assert.Equal([Eoi], Told());
        cpu.AfterExit();
        Assert.Equal([Eoi], Told());
    }

    /// <summary>An interrupt is in service, and its end need not be told.</summary>
    private sealed class InService : IInterruptSource
    {
        public bool InterruptPending => false;
        public bool NmiPending => false;
        public bool IsInService => true;
        public bool WaitsForStartUp => false;
        public ulong Cr8 { get; set; }

        public byte? AcknowledgeInterrupt() => null;

        public bool TakeNmi() => false;

        public void CollapseNmis()
        {
        }

        public bool TryOfferSilentEoi() => true;

        public bool TakeInit() => false;

        public byte? TakeStartUp() => null;
    }
}
