using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Several VMs in one process, each disposable. Alone in its collection, since it counts what the process holds.</summary>
[Collection(nameof(LifetimeTests)), CollectionDefinition(nameof(LifetimeTests), DisableParallelization = true)]
public sealed class LifetimeTests
{
    private const ulong MemorySize = 64 << 20;

    /// <summary>A board whose guest writes to all of its first 16 MiB and then says how much it counted.</summary>
    private static X86Machine Start(string engine, out PcBoard board, uint number)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(edi, 1 << 20);
            a.Label(ref loop);
            a.add(eax, number);
            a.mov(__dword_ptr[edi], eax);
            a.add(edi, 4096);
            a.cmp(edi, 16 << 20);
            a.jb(loop);
            a.mov(__dword_ptr[(int)Layout.Data], eax);
            a.mov(eax, number);
            a.@out(0xF4, eax);
            a.hlt();
        });
        var vm = new X86Machine(TestedEngines.Find(engine), g.Model, MemorySize);
        board = new PcBoard(vm, new PcBoardOptions { DebugExit = true });
        var memory = new byte[Layout.Data - Layout.Gdt];
        Assert.True(g.Memory.Read(Layout.Gdt, memory));
        Assert.True(vm.Memory.Write(Layout.Gdt, memory));
        vm.Cpus[0].Cpu.WriteState(g.State);
        vm.Start();
        return vm;
    }

    private static void Check(X86Machine vm, uint number)
    {
        StopCause cause = vm.Stopped.Result;
        Assert.Equal((StopReason.DebugExit, (int)number * 2 + 1), (cause.Reason, cause.Status));
        vm.Join();
        Assert.True(vm.Memory.TryRead(Layout.Data, out uint counted));
        Assert.Equal(number * (15 << 8), counted);
    }

    /// <summary>Mappings of memory for emitted code: shared anonymous memory, which nobody else in the process has.</summary>
    private static int CodeMappings => File.ReadLines("/proc/self/maps").Count(l => l.Contains("/dev/zero", StringComparison.Ordinal));

    private static int AllDescriptors => Directory.GetFileSystemEntries("/proc/self/fd").Length;

    /// <summary>Threads of vCPUs that are left after the operating system has had time to take an ended thread away.</summary>
    private static int VcpuThreads
    {
        get
        {
            SpinWait.SpinUntil(() => CountVcpuThreads() == 0, TimeSpan.FromMinutes(1));
            return CountVcpuThreads();
        }
    }

    private static int CountVcpuThreads() => Directory.GetDirectories("/proc/self/task").Count(t => Name(t).StartsWith("vcpu", StringComparison.Ordinal));

    private static string Name(string task)
    {
        try
        {
            return File.ReadAllText(Path.Combine(task, "comm"));
        }
        catch (IOException)
        {
            return ""; // it has just ended
        }
    }

    /// <summary>Bytes of address space that guest memory is mapped to.</summary>
    private static ulong MappedGuestMemory =>
        File.ReadLines("/proc/self/maps").Where(l => l.Contains("bunraku", StringComparison.Ordinal)).Aggregate(0ul, (sum, line) =>
    {
        string[] range = line[..line.IndexOf(' ')].Split('-');
        return sum + Convert.ToUInt64(range[1], 16) - Convert.ToUInt64(range[0], 16);
    });

    /// <summary>
    /// Bytes that this process has resident, without the heap of .NET: how much that keeps for later is its own affair.
    /// </summary>
    private static long Resident()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        using var self = Process.GetCurrentProcess();
        return self.WorkingSet64 - GC.GetGCMemoryInfo().TotalCommittedBytes;
    }

    [Theory, Engines]
    public void A_hundred_VMs_come_and_go_and_leave_nothing_behind(string engine)
    {
        void One(uint number)
        {
            using X86Machine vm = Start(engine, out _, number);
            Check(vm, number);
        }

        // What the runtime and the engine keep for the process is there after a few.
        for (uint n = 0; n < 10; n++) One(n);
        long resident = Resident();
        (int code, int all, int threads, ulong mapped) = (CodeMappings, AllDescriptors, VcpuThreads, MappedGuestMemory);
        for (uint n = 0; n < 100; n++) One(n);
        long after = Resident();
        Assert.Equal((code, threads, mapped), (CodeMappings, VcpuThreads, MappedGuestMemory));
        Assert.InRange(AllDescriptors, 0, all + 50);
        // Each guest alone touched 15 MiB.
        Assert.InRange(after - resident, long.MinValue, 64 << 20);
    }

    [Theory, Engines]
    public void A_VM_that_never_started_or_is_stopped_in_the_middle_leaves_nothing_behind(string engine)
    {
        void One()
        {
            new X86Machine(TestedEngines.Find(engine), CpuModels.Parse(CpuModels.Default), MemorySize).Dispose();
            using X86Machine vm = Start(engine, out _, 1);
        }

        One();
        (int code, ulong mapped) = (CodeMappings, MappedGuestMemory);
        for (int n = 0; n < 20; n++) One();
        Assert.Equal((code, 0, mapped), (CodeMappings, VcpuThreads, MappedGuestMemory));
    }

    [Theory, Engines]
    public void Several_VMs_run_at_the_same_time_and_do_not_meet(string engine)
    {
        X86Machine[] vms = [.. Enumerable.Range(1, 8).Select(n => Start(engine, out _, (uint)n))];
        for (uint n = 1; n <= vms.Length; n++) Check(vms[n - 1], n);
        foreach (X86Machine vm in vms) vm.Dispose();
    }

    [Theory, Engines]
    public void Kick_and_DMA_after_the_end_of_a_vCPU_do_nothing(string engine)
    {
        using var memory = new GuestMemory(1 << 20);
        IX86Vm vm = TestedEngines.Find(engine).CreateVm(memory, CpuModels.Parse(CpuModels.Default), new VirtualClock());
        IX86Cpu cpu = vm.CreateCpu(0);
        cpu.Dispose();
        vm.Dispose();
        for (int n = 0; n < 1000; n++) cpu.Kick();
        Assert.True(memory.TryWrite(0, 1));
    }

    [Theory, Engines]
    public void Split_locked_operations_of_two_vCPUs_are_one_after_another(string engine)
    {
        const int count = 100_000;
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            Label wait = a.CreateLabel();
            a.mov(ecx, count);
            // Both start together.
            a.@lock.inc(__dword_ptr[(int)Layout.Data + 0x100]);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[(int)Layout.Data + 0x100], 2);
            a.jb(wait);
            a.Label(ref loop);
            a.@lock.inc(__dword_ptr[(int)Layout.Data + 62]); // across cache lines
            a.@lock.inc(__dword_ptr[(int)Layout.Data + 0xFFE]); // across pages
            a.dec(ecx);
            a.jnz(loop);
            a.hlt();
        });
        using IX86Vm vm = TestedEngines.Find(engine).CreateVm(g.Memory, g.Model, new VirtualClock());
        IX86Cpu[] cpus = [vm.CreateCpu(0), vm.CreateCpu(1)];
        Thread[] threads = [.. cpus.Select(cpu => new Thread(() =>
        {
            while (cpu.Enter().Reason != ExitReason.Hlt)
            {
            }
        }))];
        foreach (IX86Cpu cpu in cpus) cpu.WriteState(g.State);
        foreach (Thread t in threads) t.Start();
        foreach (Thread t in threads) t.Join();
        Assert.Equal((2u * count, 2u * count), (g.Read<uint>(Layout.Data + 62), g.Read<uint>(Layout.Data + 0xFFE)));
        foreach (IX86Cpu cpu in cpus) cpu.Dispose();
    }
}
