using System.Runtime.CompilerServices;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>One vCPU of KVM behind the exit boundary.</summary>
/// <remarks>
/// KVM finishes the instruction of an exit only when it is entered again (Documentation/virt/kvm/api.rst, "KVM_RUN"); an entry with immediate_exit set does
/// that and nothing more. While the kernel holds no local APIC the value of CR8 goes to and fro in the run structure. KVM says in it whether an interrupt
/// can be injected; with an APIC in the kernel, one of the 8259A.
/// </remarks>
internal sealed unsafe partial class KvmCpu : IX86Cpu
{
    private readonly KvmShared _vm;
    private readonly KvmFile _file;
    private readonly KvmRun* _run;
    private readonly int _runSize;
    private readonly ExitPieces _pieces;
    private readonly KvmNestedState _nested;

    private ExecutionControls _controls = new();
    private bool _presented;     // the last piece was returned: its answer is to be taken at the next entry
    private volatile bool _disposed, _released;
    private int _kickers;        // threads inside Kick
    private ulong _cr8;          // what the hypervisor knows
    private bool _cr8Presented;
    private int _kick;           // 1: somebody wants Enter to return
    private int _hostThread;     // kernel's number of the thread inside KVM_RUN; 0: none
    private int _lastManagedThread, _lastHostThread;
    private bool _ready;         // KVM takes an interrupt at the next entry
    private ulong _interruptsDelivered;
    private long _result;        // of the last KVM_RUN
    private bool _resultWaits;   // it was not looked at yet
    private readonly X86Exit _postedExit = new();
    private HostBackoff _backoff;

    /// <param name="run">The vCPU's run structure, <paramref name="runSize"/> bytes, which lives until <see cref="Release"/>.</param>
    public KvmCpu(KvmShared vm, int index, KvmFile file, KvmRun* run, int runSize)
    {
        _vm = vm;
        Index = index;
        _file = file;
        _run = run;
        _runSize = runSize;
        _pieces = new ExitPieces(run, runSize);
        _nested = new KvmNestedState(file, index, vm.NestedStateSize);
    }

    public int Index { get; }

    public EngineCounters Counters => new(0, 0, 0, 0, 0, 0, Volatile.Read(ref _interruptsDelivered));

    public ExecutionControls Controls
    {
        get => _controls;
        set
        {
            if ((value.Instructions & ~InterceptedInstructions.Mwait) != 0 || value.ExceptionBitmap != 0)
                throw new NotSupportedException($"KVM does not let {value.Instructions & ~InterceptedInstructions.Mwait} "
                    + $"or exceptions (bitmap 0x{value.ExceptionBitmap:X}) exit; use the engine interp");
            _controls = value;
        }
    }

    // ---- events

    public bool InterruptWindowOpen => _ready && !_pieces.HasNext && !_resultWaits && !_disposed;

    public void InjectInterrupt(byte vector)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        uint number = vector;
        if (HasApic) InjectExternal(vector);
        else _file.Request(KvmRequest.Interrupt, &number);
        _ready = false;
        _interruptsDelivered++;
    }

    public void InjectException(byte vector, uint? errorCode)
    {
        KvmVcpuEvents events;
        _file.Request(KvmRequest.GetVcpuEvents, &events);
        SetPending(ref events, new PendingEvent(EventKind.HardwareException, vector, errorCode));
        _file.Request(KvmRequest.SetVcpuEvents, &events);
        _ready = false;
    }

    public void SetTaskPriority(ulong cr8)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        // A write by the guest that the hypervisor has not seen yet stands. The kernel's own APIC needs nobody to tell it.
        if (HasApic) return;
        if (_cr8Presented || _run->Cr8 == _cr8) _run->Cr8 = _cr8 = cr8 & 0xF;
    }

    /// <inheritdoc/>
    public CpuActivity Activity
    {
        get => _activity;
        set => _activity = HasApic ? CpuActivity.Active : value;
    }

    // ---- kicks

    /// <remarks>The order counts: whoever sees immediate_exit cleared by <see cref="ClearImmediateExit"/> after this finds <see cref="_kick"/> set.</remarks>
    public void Kick()
    {
        Interlocked.Increment(ref _kickers);
        if (!_released)
        {
            Volatile.Write(ref _kick, 1);
            Thread.MemoryBarrier();
            _run->ImmediateExit = 1;
            Thread.MemoryBarrier();
            int thread = Volatile.Read(ref _hostThread);
            if (thread != 0) ThreadSignal.Interrupt(thread);
        }
        Interlocked.Decrement(ref _kickers);
    }

    private void ClearImmediateExit()
    {
        _run->ImmediateExit = 0;
        Thread.MemoryBarrier();
    }

    private int HostThread()
    {
        int managed = Environment.CurrentManagedThreadId;
        if (managed != _lastManagedThread)
        {
            _lastHostThread = ThreadSignal.CurrentThread();
            _lastManagedThread = managed;
        }
        return _lastHostThread;
    }

    // ---- entering

    public X86Exit Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_activity != CpuActivity.Shutdown) _activity = CpuActivity.Active;
        TakeAnswer();
        for (; ; )
        {
            if (PostedWrite() is { } write) return write;
            if (_pieces.HasNext) return Present();
            if (_resultWaits)
            {
                _resultWaits = false;
                if (Conclude() is { } exit) return exit;
                continue;
            }
            if (_controls.NmiWindowExiting)
            {
                FinishInstruction();
                if (_pieces.HasNext) continue;
            }
            if (NmiWindowOpens()) return _pieces.Synthetic(ExitReason.NmiWindow);
            KeepTime();
            _run->RequestInterruptWindow = _controls.InterruptWindowExiting ? (byte)1 : (byte)0;
            _unwatched = true;
            _pieces.Clear();
            _result = Run();
            _ready = _run->ReadyForInterruptInjection != 0;
            _resultWaits = true; // behind the posted writes that were made before it
        }
    }

    /// <summary>What KVM_RUN returned with. Null when it is nobody's affair.</summary>
    private X86Exit? Conclude()
    {
        long result = _result;
        if (result == -Errno.Interrupted || (result >= 0 && _run->ExitReason == KvmExit.Interrupted))
        {
            ClearImmediateExit();
            bool kicked = Interlocked.Exchange(ref _kick, 0) != 0;
            if (Cr8Changed()) return Cr8Exit(kicked);
            return kicked ? _pieces.Synthetic(ExitReason.Kicked) : null; // another signal, or a kick that an earlier exit has answered
        }
        if (result == -Errno.TryAgain) return null; // the kernel asks for another try
        if (result < 0) return Fail(KvmFile.Failed(KvmRequest.Run, (int)-result).Message);
        if (_run->ExitReason == KvmExit.Debug && _stepping) return Cr8Changed() ? Cr8Exit(kicked: false) : null;
        if (_pieces.Begin() is { } problem) return Fail(problem);
        if (_run->ExitReason == KvmExit.SetTpr) _pieces.Clear(); // is nothing but the change of CR8
        if (Cr8Changed()) return Cr8Exit(kicked: false);
        return _pieces.HasNext ? Present() : null;
    }

    /// <summary>The next of the writes that KVM gathered, if there is one. While another vCPU shows some, this one waits; a kick ends that.</summary>
    private X86Exit? PostedWrite()
    {
        if (_vm.Posted is not { IsIdle: false } posted) return null;
        while (!posted.TryOwn(Index))
        {
            if (Interlocked.Exchange(ref _kick, 0) != 0) return _pieces.Synthetic(ExitReason.Kicked);
            _backoff.Wait();
        }
        if (posted.TryTake(_postedExit)) return _postedExit;
        posted.Release(Index);
        return null;
    }

    private long Run()
    {
        Volatile.Write(ref _hostThread, HostThread());
        Thread.MemoryBarrier();
        long result = _file.TryRequest(KvmRequest.Run, 0);
        Volatile.Write(ref _hostThread, 0);
        return result;
    }

    /// <summary>What the hypervisor did about the last exit goes to KVM.</summary>
    private void TakeAnswer()
    {
        if (_cr8Presented)
        {
            _cr8Presented = false;
            return;
        }
        if (!_presented) return;
        _presented = false;
        ConvertDeadline(answer: true);
        _pieces.Answer();
        if (!_pieces.HasNext) NoteApicBase();
    }

    private X86Exit Present()
    {
        X86Exit exit = _pieces.Next();
        _presented = true;
        _last = exit;
        if (exit.Reason == ExitReason.Hlt) _activity = CpuActivity.Halted;
        else if (exit.Reason == ExitReason.TripleFault) _activity = CpuActivity.Shutdown;
        ConvertDeadline(answer: false);
        return exit;
    }

    private X86Exit _last = new();

    /// <summary>CR8 belongs to the local APIC: a write shows up as an exit of its own, before the one that brought it to light.</summary>
    private bool Cr8Changed() => !HasApic && _run->Cr8 != _cr8;

    private readonly X86Exit _cr8Exit = new();

    private X86Exit Cr8Exit(bool kicked)
    {
        if (kicked) Kick(); // comes next
        _cr8 = _run->Cr8;
        _cr8Presented = true;
        _cr8Exit.Reason = ExitReason.CrAccess;
        _cr8Exit.Address = 8;
        _cr8Exit.IsWrite = true;
        _cr8Exit.Size = 8;
        _cr8Exit.Data = _cr8;
        return _cr8Exit;
    }

    private X86Exit Fail(string problem)
    {
        string where;
        try
        {
            KvmRegisters r;
            KvmSystemRegisters s;
            _file.Request(KvmRequest.GetRegisters, &r);
            _file.Request(KvmRequest.GetSystemRegisters, &s);
            where = $"RIP={s.Cs.Selector:X4}:{r.Rip:X} RFLAGS={r.Rflags:X} RSP={r.Rsp:X} CS base={s.Cs.Base:X} "
                + $"CR0={s.Cr0:X} CR2={s.Cr2:X} CR3={s.Cr3:X} CR4={s.Cr4:X} EFER={s.Efer:X}";
        }
        catch (KvmException e)
        {
            where = e.Message;
        }
        return _pieces.Synthetic(ExitReason.InternalError, $"{problem}; {where}");
    }

    /// <summary>
    /// Finishes the instruction of the last exit without executing another one. What it still wants to know becomes the next exit.
    /// </summary>
    private void FinishInstruction()
    {
        if (!_pieces.AwaitsEntry || _pieces.HasNext) return;
        TakeAnswer();
        _pieces.Clear();
        _run->ImmediateExit = 1;
        long result = _file.TryRequest(KvmRequest.Run, 0);
        _ready = _run->ReadyForInterruptInjection != 0;
        ClearImmediateExit();
        if (Volatile.Read(ref _kick) != 0) _run->ImmediateExit = 1;
        if (result == -Errno.Interrupted) return;
        if (result < 0) throw KvmFile.Failed(KvmRequest.Run, (int)-result);
        if (_pieces.Begin() is { } problem) throw new InvalidOperationException(problem);
    }

    /// <summary>Not while <see cref="Enter"/> runs.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _file.Dispose();
    }

    /// <summary>Gives the run structure back. Later kicks find nothing to do.</summary>
    public void Release()
    {
        Dispose();
        if (_released) return;
        _released = true;
        Thread.MemoryBarrier();
        while (Volatile.Read(ref _kickers) != 0) Thread.Yield();
        if (_file is KvmDescriptor) KvmDescriptor.Unmap(_run, _runSize);
    }
}
