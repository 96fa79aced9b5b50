using System.Reflection;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Testing;
using Iced.Intel;
using Xunit.Sdk;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Runs a theory for every engine with the board's local APICs, and once more for those that can hold them: arguments are the engine and whether it holds them.
/// </summary>
/// <param name="inService">The fixture looks at what is in service, which KVM without hardware forgets: there the interrupt ends when it is delivered.</param>
/// <param name="cpus">How many processors it needs.</param>
[AttributeUsage(AttributeTargets.Method)]
public sealed class ApicHoldersAttribute(bool inService = false, int cpus = 1) : DataAttribute
{
    public override IEnumerable<object[]> GetData(MethodInfo testMethod) =>
        ApicHolder.All.Where(h => Reason(h) == null).Select(h => (object[])[h.Engine, h.Holds]);

    /// <summary>Null when the fixture runs there.</summary>
    internal string? Reason(ApicHolder holder) =>
        cpus > TestedEngines.Find(holder.Engine).MaxCpus ? "the engine has not so many processors"
        : inService && holder.ForgetsService ? "the local APIC of a KVM without hardware does not keep what is in service" : null;
}

/// <summary>An engine, and whether it holds the local APICs itself.</summary>
/// <param name="ForgetsService">EOI is made with the delivery.</param>
internal sealed record ApicHolder(string Engine, bool Holds, bool ForgetsService)
{
    public static IReadOnlyList<ApicHolder> All { get; } = [.. TestedEngines.Runnable.SelectMany(Of)];

    private static IEnumerable<ApicHolder> Of(IX86Engine engine)
    {
        yield return new(engine.Name, false, false);
        using var memory = new GuestMemory(Layout.MemorySize);
        using IX86Vm vm = Find(engine.Name).CreateVm(memory, CpuModels.Parse(CpuModels.Default), new VirtualClock());
        if (vm.HoldLocalApics() != null) yield return new(engine.Name, true, NotRun.IsEmulatedByKernel(engine));
    }

    public static bool Forgets(string engine, bool holds) => All.Any(h => h.ForgetsService && (h.Engine, h.Holds) == (engine, holds));

    /// <summary>The engine as it is tested: one that would rather leave local APICs to the board does not.</summary>
    public static IX86Engine Find(string engine) => engine == "kvm" ? new Bunraku.Engine.Kvm.KvmEngine { HoldsApicsWithoutHardware = true }
        : TestedEngines.Find(engine);
}

/// <summary>
/// A fixture's guest on a whole board: flat 32-bit protected mode with the APICs mapped. It says things on the debug console and ends through isa-debug-exit.
/// </summary>
internal sealed class BoardGuest : IDisposable
{
    public const long LocalApic = 0xFEE0_0000, IoApic = 0xFEC0_0000;
    public const int Id = 0x20, TaskPriority = 0x80, Eoi = 0xB0, SpuriousVector = 0xF0, InService = 0x100, InterruptRequest = 0x200, Icr = 0x300,
        IcrHigh = 0x310,
        LvtTimer = 0x320, LvtLint0 = 0x350, LvtLint1 = 0x360, InitialCount = 0x380, CurrentCount = 0x390, Divide = 0x3E0;
    /// <summary>A byte of the test device.</summary>
    public const byte ScratchPort = 0xE0;
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);

    private readonly Guest _guest = new(Mode.Protected32);
    private readonly List<byte> _said = [];

    public BoardGuest(string engine, bool engineApics, Action<Guest, Assembler> emit, Action<Guest>? prepare = null, int cpus = 1)
    {
        _guest.Code(a => emit(_guest, a));
        prepare?.Invoke(_guest);
        Vm = new X86Machine(ApicHolder.Find(engine), _guest.Model, Layout.MemorySize, cpus, new X86MachineOptions { EngineApics = engineApics });
        Board = new PcBoard(Vm, new PcBoardOptions { DebugExit = true, TestDevice = true, DebugOutput = Say });
        Assert.Equal(engineApics, Vm.EngineApics != null);
        var memory = new byte[Layout.Spare - Layout.Gdt];
        Assert.True(_guest.Memory.Read(Layout.Gdt, memory));
        Assert.True(Vm.Memory.Write(Layout.Gdt, memory));
        Vm.Cpus[0].Cpu.WriteState(_guest.State);
    }

    public X86Machine Vm { get; }
    public PcBoard Board { get; }

    private void Say(ReadOnlySpan<byte> bytes)
    {
        lock (_said) _said.AddRange(bytes);
    }

    /// <summary>What came on the debug console so far.</summary>
    public byte[] Said
    {
        get
        {
            lock (_said) return [.. _said];
        }
    }

    /// <summary>The guest reads this number at <see cref="ScratchPort"/> from now on.</summary>
    public void Tell(byte number) => Vm.Ports.Write(ScratchPort, 1, number);

    /// <summary>Runs to the guest's end and returns what it said.</summary>
    public byte[] Run()
    {
        Vm.Start();
        return Finish();
    }

    /// <summary>Null when the guest does not stop by itself in time.</summary>
    public static StopCause? Ends(X86Machine vm)
    {
        if (!new Patience(s_longest, vm).Await(vm.Stopped)) return null;
        vm.Join();
        return vm.Stopped.Result;
    }

    /// <summary>Returns when the guest has said so many things.</summary>
    public void WaitUntilSaid(int count)
    {
        new Patience(s_longest, Vm).Await(() => Said.Length >= count || Vm.Stopped.IsCompleted);
        Assert.True(Said.Length >= count, $"the guest said only {Convert.ToHexString(Said)}");
    }

    /// <summary>Stops a guest that does not stop by itself.</summary>
    public void Stop()
    {
        Vm.Stop(new StopCause(StopReason.HostRequest));
        Vm.Join();
        Assert.Equal(StopReason.HostRequest, Vm.Stopped.Result.Reason);
    }

    public byte[] Finish()
    {
        StopCause? cause = Ends(Vm);
        Assert.True(cause?.Reason == StopReason.DebugExit, $"{cause}; the guest said {Convert.ToHexString(Said)}");
        return Said;
    }

    // ---- code

    /// <summary>Emits: say AL.</summary>
    public static void Say(Assembler a) => a.@out(0xE9, al);

    public static void Say(Assembler a, byte value)
    {
        a.mov(al, value);
        Say(a);
    }

    /// <summary>Emits: the guest's end.</summary>
    public static void End(Assembler a)
    {
        a.@out(0xF4, eax);
        a.cli();
        a.hlt();
    }

    /// <summary>Emits: enable the local APIC by software.</summary>
    public static void EnableApic(Assembler a) => Write(a, SpuriousVector, 0x1FF);

    public static void Write(Assembler a, int register, uint value) => a.mov(__dword_ptr[LocalApic + register], value);

    public static void Read(Assembler a, int register) => a.mov(eax, __dword_ptr[LocalApic + register]);

    /// <summary>Emits: a word of the I/O APIC.</summary>
    public static void WriteIoApic(Assembler a, byte index, uint value)
    {
        a.mov(__dword_ptr[IoApic], (uint)index);
        a.mov(__dword_ptr[IoApic + 0x10], value);
    }

    /// <summary>Emits: a byte to a port.</summary>
    public static void Out(Assembler a, int port, byte value)
    {
        a.mov(al, value);
        a.mov(dx, (ushort)port);
        a.@out(dx, al);
    }

    /// <summary>Emits: return from an interrupt without IRET, which the kernel's instruction emulator has in real mode only. NMIs stay blocked.</summary>
    public static void Return(Assembler a)
    {
        // EIP, CS, EFLAGS become EFLAGS, EIP.
        a.push(eax);
        a.push(edx);
        a.mov(eax, __dword_ptr[esp + 16]);
        a.mov(edx, __dword_ptr[esp + 8]);
        a.mov(__dword_ptr[esp + 16], edx);
        a.mov(__dword_ptr[esp + 12], eax);
        a.pop(edx);
        a.pop(eax);
        a.add(esp, 4);
        a.popfd();
        a.ret();
    }

    /// <summary>
    /// Emits: let come what comes. Hardware needs one instruction; the kernel's instruction emulator looks for interrupts now and then. Spoils ECX.
    /// </summary>
    public static void Settle(Assembler a)
    {
        Label wait = a.CreateLabel();
        a.mov(ecx, 2000);
        a.Label(ref wait);
        a.dec(ecx);
        a.jnz(wait);
    }

    public static void EndOfInterrupt(Assembler a) => Write(a, Eoi, 0);

    public void Dispose()
    {
        Vm.Dispose();
        _guest.Dispose();
    }
}
