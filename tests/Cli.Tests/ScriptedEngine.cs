using Bunraku.Engines;

namespace Bunraku.Cli.Tests;

/// <summary>An engine whose guest is a list of exits; after the last one the guest loops until somebody kicks it.</summary>
internal sealed class ScriptedEngine(params Action<X86Exit>[] script) : IX86Engine
{
    public static readonly CpuModel Model =
        new("scripted", "GenuineIntel", 6, 1, 1, "Scripted", new HashSet<CpuFeature> { CpuFeature.Lm, CpuFeature.Pae, CpuFeature.Apic });

    public string Name { get; init; } = "scripted";

    public EngineProbe Answer { get; init; } = new(true, "a list of exits");

    public EngineProbe Probe() => Answer;

    /// <summary>What of the model it cannot give.</summary>
    public IReadOnlyList<CpuFeature> Lacks { get; init; } = [];

    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) =>
        new Vm(script) { NarrowedModel = Lacks.Count == 0 ? null : model with { Features = model.Features.Except(Lacks).ToHashSet() } };

    public static Action<X86Exit> Out(ushort port, byte value) => e => (e.Reason, e.IsWrite, e.Size, e.Address, e.Data) = (ExitReason.Io, true, 1, port, value);

    public static Action<X86Exit> In(ushort port) => e => (e.Reason, e.IsWrite, e.Size, e.Address, e.Data) = (ExitReason.Io, false, 1, port, 0);

    public static Action<X86Exit> Exit(ExitReason reason) => e => e.Reason = reason;

    private sealed class Vm(Action<X86Exit>[] script) : IX86Vm
    {
        public CpuModel? NarrowedModel { get; init; }

        public IX86Cpu CreateCpu(int index) => new Cpu(index, script);

        public void Dispose()
        {
        }
    }

    private sealed class Cpu(int index, Action<X86Exit>[] script) : IX86Cpu
    {
        private readonly X86Exit _exit = new();
        private readonly Lock _disposal = new();
        private readonly SemaphoreSlim _kicks = new(0);
        private bool _disposed;
        private CpuState _state = new();
        private int _next;

        public int Index => index;
        public ExecutionControls Controls { get; set; } = new();
        public CpuActivity Activity { get; set; }
        public bool InterruptWindowOpen => false;
        public bool NmiWindowOpen => false;
        public EngineCounters Counters => new((ulong)_next, 0, 0, 0, 0, 0, 0);

        public X86Exit Enter()
        {
            if (_next < script.Length)
            {
                script[_next++](_exit);
                Activity = _exit.Reason == ExitReason.Hlt ? CpuActivity.Halted : CpuActivity.Active;
                return _exit;
            }
            _kicks.Wait();
            _exit.Reason = ExitReason.Kicked;
            return _exit;
        }

        public void Kick()
        {
            lock (_disposal)
            {
                if (!_disposed) _kicks.Release();
            }
        }

        public void InjectInterrupt(byte vector) => throw new InvalidOperationException("the window is closed");

        public void InjectNmi() => throw new InvalidOperationException("the window is closed");

        public void InjectException(byte vector, uint? errorCode) => throw new InvalidOperationException("no exit asks for it");

        public void ReadState(CpuState state)
        {
            _state.Gpr.CopyTo(state.Gpr, 0);
            (state.Rip, state.Rflags, state.Cr0, state.Cr3, state.Cs, state.Ss) = (_state.Rip, _state.Rflags, _state.Cr0, _state.Cr3, _state.Cs, _state.Ss);
        }

        public void WriteState(CpuState state) => _state = state;

        public void Reset() => _state = new CpuState();

        public void Dispose()
        {
            lock (_disposal)
            {
                _disposed = true;
                _kicks.Dispose();
            }
        }
    }
}
