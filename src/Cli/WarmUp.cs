using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using Bunraku.Platform;
using Bunraku.Processor.X86;
using Iced.Intel;

namespace Bunraku.Cli;

/// <summary>
/// Has the runtime load, on a processor of the host that would be idle, what every VM needs on the software engines: a few instructions are executed in a VM
/// that nobody sees, while the command line is read and the guest's files are found. Nothing depends on it.
/// </summary>
internal static class WarmUp
{
    private const ulong Code = 0x1000, Stack = 0x8000, Tables = 0x10000, Memory = 2 << 20;

    private const int MostExits = 8;

    /// <summary>Some instructions that every kernel has, a loop with the commonest ones, and HLT.</summary>
    private static ReadOnlySpan<byte> Program =>
    [
        0xBF, 0x00, 0x90, 0x00, 0x00, // mov edi, 9000h
        0xBE, 0x00, 0xA0, 0x00, 0x00, // mov esi, A000h
        0xB9, 0x40, 0x00, 0x00, 0x00, // mov ecx, 64
        0xF3, 0xA4, // rep movsb
        0xB9, 0x08, 0x00, 0x00, 0x00, // mov ecx, 8
        0xF3, 0x48, 0xAB, // rep stosq
        0x0F, 0x31, // rdtsc
        0x0F, 0xA2, // cpuid
        0xF0, 0x0F, 0xB1, 0x0F, // lock cmpxchg [rdi], ecx
        0x87, 0x07, // xchg [rdi], eax
        0x0F, 0xBA, 0x2F, 0x03, // bts dword [rdi], 3
        0x0F, 0xBA, 0xF0, 0x03, // btr eax, 3
        0x48, 0x0F, 0xAF, 0xC1, // imul rax, rcx
        0x31, 0xD2, // xor edx, edx
        0xB9, 0x07, 0x00, 0x00, 0x00, // mov ecx, 7
        0x48, 0xF7, 0xF1, // div rcx
        0x48, 0xD3, 0xE0, // shl rax, cl
        0x48, 0xC1, 0xF8, 0x03, // sar rax, 3
        0x48, 0x63, 0xC8, // movsxd rcx, eax
        0x0F, 0x10, 0x07, // movups xmm0, [rdi]
        0x66, 0x0F, 0xEF, 0xC9, // pxor xmm1, xmm1
        0x0F, 0x11, 0x0F, // movups [rdi], xmm1
        0xB9, 0x00, 0x02, 0x00, 0x00, // mov ecx, 512
        0x50, // push rax
        0x48, 0x8D, 0x44, 0x08, 0x07, // lea rax, [rax+rcx+7]
        0x48, 0x89, 0x44, 0x24, 0xF0, // mov [rsp-16], rax
        0x48, 0x8B, 0x54, 0x24, 0xF0, // mov rdx, [rsp-16]
        0x0F, 0xB6, 0xDA, // movzx ebx, dl
        0x48, 0xC1, 0xE2, 0x03, // shl rdx, 3
        0x48, 0xC1, 0xEB, 0x02, // shr rbx, 2
        0x48, 0x29, 0xD3, // sub rbx, rdx
        0x48, 0x01, 0xDA, // add rdx, rbx
        0x48, 0x31, 0xDB, // xor rbx, rbx
        0x48, 0x83, 0xE2, 0x7F, // and rdx, 127
        0x48, 0x85, 0xD2, // test rdx, rdx
        0x74, 0x02, // jz over the next one
        0x09, 0xD0, // or eax, edx
        0x80, 0x7C, 0x24, 0xF0, 0x05, // cmp byte [rsp-16], 5
        0x0F, 0x94, 0xC2, // sete dl
        0x0F, 0x44, 0xC2, // cmove eax, edx
        0xE8, 0x06, 0x00, 0x00, 0x00, // call the function
        0x58, // pop rax
        0xFF, 0xC9, // dec ecx
        0x75, 0xBC, // jnz to the push
        0xF4, // hlt
        0x55, // push rbp
        0x48, 0x89, 0xE5, // mov rbp, rsp
        0x5D, // pop rbp
        0xC3, // ret
    ];

    /// <summary>Begins, where that helps, and returns at once.</summary>
    public static void Begin()
    {
        _ = HostCounter.Best; // the first clock waits until its rate can be measured, which is some ms from here on
        if (Environment.ProcessorCount < 2) return; // it would only take time
        new Thread(Run) { IsBackground = true, Name = "warm-up" }.Start();
    }

    private static void Run()
    {
        try
        {
            SHA256.HashData([]);
            if (RuntimeFeature.IsDynamicCodeCompiled) Execute();
            else MakeTables();
        }
        catch (Exception)
        {
            // Who needs it will find out, and can say so.
        }
    }

    /// <summary>
    /// For a program of machine code alone, which has nothing to load, and whose threads would wait for each other: what the decoder knows of all instructions,
    /// and names of enumerations, which are made when somebody first asks for one.
    /// </summary>
    private static void MakeTables()
    {
        _ = Iced.Intel.Code.Nopd.ToOpCode();
        _ = Mnemonic.Nop.ToString();
        _ = OpCodeOperandKind.None.ToString();
    }

    /// <returns>It came to the program's end; else the host has something of its own to run guests, or cannot.</returns>
    internal static bool Execute()
    {
        // The host's own virtualization needs nothing of it.
        if (Vm.ChosenEngine(KnownEngines.All) is not TranslatorEngine engine) return false;
        using var memory = new GuestMemory(Memory);
        memory.Write(Code, Program);
        WriteEntry(memory, Tables, Tables + 0x1000 | 3);
        WriteEntry(memory, Tables + 0x1000, Tables + 0x2000 | 3);
        WriteEntry(memory, Tables + 0x2000, 0x83); // 2 MiB from 0 on
        using IX86Vm vm = engine.CreateVm(memory, CpuModels.Parse(CpuModels.Default), new VirtualClock());
        using IX86Cpu cpu = vm.CreateCpu(0);
        var state = new CpuState();
        cpu.ReadState(state);
        (state.Cr0, state.Cr3, state.Cr4, state.Efer) = (0x8000_0011, Tables, 0x620, 0x500);
        state.Cs = new SegmentState(8, 0, 0xFFFF_FFFF, 0xA09B);
        state.Ss = state.Ds = state.Es = new SegmentState(16, 0, 0xFFFF_FFFF, 0xC093);
        (state.Rip, state.Rflags, state.Gpr[4]) = (Code, 2, Stack);
        cpu.WriteState(state);
        for (int n = 0; n < MostExits && cpu.Activity == CpuActivity.Active; n++) cpu.Enter();
        return cpu.Activity == CpuActivity.Halted;
    }

    private static void WriteEntry(GuestMemory memory, ulong address, ulong entry) => memory.Write(address, BitConverter.GetBytes(entry));
}
